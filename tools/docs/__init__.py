"""Pages of the documentation's site: ``python -m tools.docs build/pages`` writes them.

They are the files of ``docs/`` and pages made from the package, the notebooks and the results.  The
site's builder reads plain Markdown, so that it can be replaced (see ``mkdocs.yml``).
"""
