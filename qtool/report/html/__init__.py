"""JSON documents -> one page that a browser opens from disk; the only importer of jinja2.

`documents.py` reads and joins the documents; a file each for what the page says of them; `plots.py` lays pictures out;
`blocks.py` has what a page is made of, which `page.py` turns into HTML by the templates.
"""
