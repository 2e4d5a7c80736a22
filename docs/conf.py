"""What Sphinx is told about the site; `tools/site_pages.py` lays out its sources and runs it."""

project = "fbs-tutorial"
language = "en"
extensions = ["myst_nb", "sphinx.ext.mathjax"]
include_patterns = ["*.md", "benchmarks/**.md", "docs/**.md", "notebooks/*.ipynb"]

nb_execution_mode = "off"  # the stored outputs are shown
nb_merge_streams = True
nb_render_text_lexer = "none"

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4

mathjax_path = "mathjax/tex-chtml.js"  # which tools/site_pages.py puts there

html_theme = "sphinx_book_theme"
html_title = "Networks that choose their channels"
templates_path = ["templates"]
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_context = {"default_mode": "auto"}
html_theme_options = {
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
    "show_toc_level": 2,
    "use_download_button": False,
}
