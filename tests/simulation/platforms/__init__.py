"""SimGrid platforms as text, for tests."""

FLAT = """<?xml version='1.0'?>
<!DOCTYPE platform SYSTEM "https://simgrid.org/simgrid.dtd">
<platform version="4.1">
  <cluster id="c" prefix="node-" suffix=".org" radical="0-2,7" speed="1Gf"
           bw="125MBps" lat="50us" {more}/>
</platform>
"""
TWO_LEVELS = """<platform version="4.1">
  <zone id="all" routing="Full">
    <cluster id="a" prefix="a" suffix="" radical="0-1" speed="1Gf" bw="1Gbps" lat="1ms"/>
    <cluster id="b" prefix="b" suffix="" radical="0-2" speed="1Gf" bw="1kBps" lat="2ms"
             bb_bw="1.5kBps" bb_lat="3ms"/>
    <link id="out" bandwidth="500Bps" latency="10ms" {policy}/>
    <link id="in" bandwidth="2KiBps" latency="20ms"/>
    <zoneRoute src="a" dst="b" gw_src="aa_router" gw_dst="bb_router">
      <link_ctn id="out" {direction}/><link_ctn id="in"/>
    </zoneRoute>
  </zone>
</platform>
"""


def platform_of(body, version="4.1"):
    return f'<platform version="{version}">{body}</platform>'


def zone_of(body, routing="Full"):
    return platform_of(f'<zone id="z" routing="{routing}">{body}</zone>')


def cluster(more="", name="c", prefix="n", radical="0-3"):
    return (
        f'<cluster id="{name}" prefix="{prefix}" suffix="" radical="{radical}" speed="1Gf" '
        f'bw="100MBps" lat="1ms" {more}/>'
    )
