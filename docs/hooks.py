"""MkDocs hooks: pages from outside docs/, the API reference, and links that work in the repository and in the site."""

import ast
import json
import os
import re
from pathlib import Path

import griffe
import latex2mathml.converter
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PROJECT = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAPERS = sorted(ROOT.glob("reproductions/*/README.md"))
WEIGHTS = ROOT / "tfmem/weights"
CARDS = sorted(WEIGHTS.glob("**/README.md"))
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
CODE = r"(?ms)^```.*?^```$|`[^`\n]+`"
CODE_OR_LINK = re.compile(CODE + r"|\]\((?P<target>[^)\s]+)\)")
MATH = re.compile(r"\$\$(?P<block>.+?)\$\$|\$(?P<inline>[^$]+)\$", re.DOTALL)
FORMULAS = []  # MathML of the notebooks' formulas; pages have their numbers until they are HTML
CODE_OR_INDICES = re.compile(CODE + r"|(?P<indices>\]\[)")


def site_path(path):
    """Return the path in the site of a file of the repository."""
    path = path.relative_to(ROOT)
    if path.as_posix() in ("README.md", "docs/README.md"):  # the second is the map of the folder on a code host
        return "index.md"
    if path.parts[0] == "docs":
        return path.relative_to("docs").as_posix()
    if path.match("reproductions/*/README.md"):
        return f"results/{path.parent.name}.md"
    if ROOT / path in CARDS:
        return f"weights/{(ROOT / path).parent.relative_to(WEIGHTS).as_posix()}.md"
    if path.suffix == ".md":
        return path.name.lower()
    if path.suffix == ".ipynb":
        return path.with_suffix(".md").as_posix()
    return f"source/{path.as_posix()}.md"


OUTSIDE = {site_path(page): page for page in [*PROJECT, *PAPERS, *CARDS, *NOTEBOOKS]}


def linked_file(page, target):
    """Return the file of the repository that a relative link points to; None for other links."""
    path = target.partition("#")[0]
    return (page.parent / path).resolve() if path and "://" not in target and not target.startswith("mailto:") else None


def linked_sources():
    """Return the files other than pages and pictures that pages link to."""
    pages = [*ROOT.glob("docs/**/*.md"), *OUTSIDE.values()]
    links = {
        linked_file(page, match["target"])
        for page in pages
        for match in CODE_OR_LINK.finditer(page.read_text("utf-8"))
        if match["target"]
    }
    return sorted(file for file in links - {None} if site_path(file).startswith("source/") and file.is_file())


def notebook_page(file):
    """Return the page that shows a notebook's text and code."""
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(file.read_text("utf-8"))["cells"]]
    return "\n\n".join(
        f"```python\n{text}\n```" if kind == "code" else MATH.sub(keep_formula, text) for kind, text in cells
    )


def keep_formula(match):
    """Keep a formula's MathML, which browsers draw by themselves; returns its mark in the page."""
    display = "block" if match["block"] else "inline"
    FORMULAS.append(latex2mathml.converter.convert(match["block"] or match["inline"], display))
    return f"FORMULA{len(FORMULAS) - 1}END"


def source_page(file):
    """Return the page that shows a source file."""
    language = "python" if file.suffix == ".py" else "text"
    head = f"---\nsearch:\n  exclude: true\n---\n\n# {file.relative_to(ROOT).as_posix()}\n"
    return f"{head}\n````{language}\n{file.read_text('utf-8')}````\n"


def modules():
    """Return `{name: first line of the docstring}` of tfmem's packages and modules, packages first."""
    packages = [folder / "__init__.py" for folder in sorted((ROOT / "tfmem").iterdir()) if folder.is_dir()]
    files = {file.parent.name: file for file in packages if file.exists()}
    files |= {file.stem: file for file in sorted((ROOT / "tfmem").glob("*.py")) if not file.stem.startswith("_")}
    return {name: ast.get_docstring(ast.parse(f.read_text("utf-8"))).partition("\n")[0] for name, f in files.items()}


class IndexNotation(griffe.Extension):
    """Keep `[layer][level]` of a docstring from being read as a reference link."""

    def on_instance(self, *, obj, **kwargs):
        if obj.docstring:
            text = obj.docstring.value
            obj.docstring.value = CODE_OR_INDICES.sub(lambda m: "]\\[" if m["indices"] else m[0], text)


def on_config(config):
    reference = [{f"tfmem.{name}": f"reference/{name}.md"} for name in modules()]
    config.nav.insert(-1, {"API reference": ["reference/README.md", *reference]})
    return config


def on_files(files, config):
    for uri, page in OUTSIDE.items():
        content = notebook_page(page) if page.suffix == ".ipynb" else page.read_text("utf-8")
        files.append(File.generated(config, uri, content=content))
    for file in linked_sources():
        files.append(File.generated(config, site_path(file), content=source_page(file)))
    rows = "".join(f"| [`tfmem.{name}`]({name}.md) | {line} |\n" for name, line in modules().items())
    overview = f"# API reference\n\nGenerated from the docstrings.\n\n| module | |\n|---|---|\n{rows}"
    files.append(File.generated(config, "reference/README.md", content=overview))
    for name in modules():
        files.append(File.generated(config, f"reference/{name}.md", content=f"::: tfmem.{name}\n"))
    return files


def on_page_content(html, page, config, files):
    return re.sub(r"FORMULA(\d+)END", lambda match: FORMULAS[int(match[1])], html)


def on_page_markdown(markdown, page, config, files):
    here = page.file.src_uri
    file = OUTSIDE.get(here, ROOT / "docs" / here)

    def in_site(match):
        target = match["target"]
        linked = linked_file(file, target) if target else None
        if linked is None or not linked.is_relative_to(ROOT):
            return match[0]
        path = os.path.relpath(site_path(linked), Path(here).parent)
        return f"]({path}{target[len(target.partition('#')[0]) :]})"

    return markdown if here.startswith(("reference/", "source/")) else CODE_OR_LINK.sub(in_site, markdown)
