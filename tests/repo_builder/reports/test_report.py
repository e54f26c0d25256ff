from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest

from repo_builder.reports import write_report
from repo_builder.reports.figures import PALETTE, fleet_figures, model_figures
from tests.repo_builder.reports.entries import entry, full, manifest, parity, variant
from tritonfleet.errors import PublishFailed
from tritonfleet.server.layout import Manifest

pytestmark = pytest.mark.build  # matplotlib takes a second


class Page(HTMLParser):
    """Checks that tags are closed in order, and collects what a page refers to and says."""

    VOID = frozenset({"meta", "br", "link", "img", "path", "use", "rect"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.ids, self.links, self.text = [], [], [], ""
        self.tags: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[k] for k in ("href", "src") if k in values]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    html, markdown = write_report(manifest(), folder, "Demo")
    return folder, html.read_text(), markdown.read_text()


def test_the_page_stands_alone_and_is_well_formed(written):
    page = Page(written[1])
    assert page.open == []
    assert "script" not in page.tags
    assert all(link.startswith("#") for link in page.links)
    assert not re.search(r"url\((?!#)", written[1])


def test_no_id_is_there_twice(written):
    ids = Page(written[1]).ids
    per_model = [each for each in ids if each in ("bert", "tokenizer", "whole")]
    assert sorted(per_model) == ["bert", "tokenizer", "whole"]
    assert not [each for each in ids if re.fullmatch(r"(figure|axes|patch|text)_\d+", each)]


def test_every_variant_and_every_reason_is_told(written):
    _, html, markdown = written
    text = Page(html).text
    for said in ("int8", "4 ms (4.00×)", "no <kernel> | for it", "cosine 0.991", "93 MiB",
                 "one variant was not made", "2026-01-01 10:00 UTC"):  # fmt: skip
        assert said in text
    assert "no &lt;kernel> \\| for it" in markdown


def test_plots_follow_the_readers_colours(written):
    html = written[1]
    style, plots = html.split("</style>", 1)
    assert "prefers-color-scheme: dark" in style
    assert "<svg" in plots
    for colour, variable in PALETTE.items():
        assert colour not in plots
        assert variable.removeprefix("var(").removesuffix(")") + ":" in style


def test_every_plot_of_the_markdown_is_there_and_is_an_image(written):
    folder, _, markdown = written
    names = re.findall(r"!\[[^]]+\]\(([^)]+)\)", markdown)
    assert {f"figures/bert_{what}.svg" for what in ("size", "latency", "parity")} <= set(names)
    for name in names:
        assert ElementTree.parse(folder / name).getroot().tag.endswith("svg")


def test_every_row_of_a_markdown_table_has_as_many_cells_as_its_heading(written):
    for table in re.findall(r"(?:^\|.*\|\n)+", written[2], re.MULTILINE):
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(cells) == 1, table


def test_the_same_manifest_gives_the_same_bytes(written, tmp_path):
    write_report(manifest(), tmp_path, "Demo")
    assert (tmp_path / "report.html").read_text() == written[1]


def test_models_without_variants_get_no_plots():
    assert list(model_figures("tokenizer", entry())) == []
    one = entry(variants=(variant("onnx", "published", parity=parity()),))
    assert list(model_figures("one", one)) == []


def test_a_difference_of_nothing_has_its_place_on_the_logarithmic_axis():
    exact = tuple(variant(name, parity=parity(0.0)) for name in ("a", "b"))
    figures = {figure.name for figure in model_figures("m", entry(variants=exact))}
    assert "m_parity" in figures


def test_a_large_fleet_shows_its_largest():
    models = {f"m{i}": entry(artifact_bytes=i + 1) for i in range(60)}
    (figure,) = fleet_figures(Manifest(models=models))
    assert "the 40 largest" in figure.caption
    assert ">m59<" in figure.svg
    assert ">m3<" not in figure.svg


def test_an_empty_manifest_gives_an_empty_report(tmp_path):
    html, markdown = write_report(Manifest(), tmp_path)
    assert Page(html.read_text()).open == []
    assert markdown.read_text().startswith("# Models")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PublishFailed, match=r"the report: .*Name another folder"):
        write_report(manifest(), tmp_path / "file")


def test_hostile_names_do_not_leave_their_place(tmp_path):
    bad = full().model_copy(update={"warnings": ("<script>alert(1)</script>",)})
    html, _ = write_report(Manifest(models={"m": bad}), tmp_path)
    assert "script" not in Page(html.read_text()).tags
