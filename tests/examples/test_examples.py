"""Every example runs against the model that ships. What it knows is little; that the programs work is what counts."""

import os
import subprocess
import sys
from pathlib import Path

from pypdf import PdfReader

from deepserve.catalog.presets import load_presets

EXAMPLES = Path(__file__).parents[2] / "examples"
DIFF = "--- a/sum.py\n+++ b/sum.py\n@@ -1 +1 @@\n-return a + b\n+return a - b\n"
PDF = (
    "%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    "3 0 obj<</Type/Page/Parent 2 0 R/Contents 4 0 R/Resources<</Font<</F<</Type/Font/Subtype/Type1"
    "/BaseFont/Helvetica>>>>>>>>endobj\n4 0 obj<</Length 42>>stream\nBT /F 12 Tf 9 9 Td (The sky is green.) Tj ET\n"
    "endstream endobj\ntrailer<</Root 1 0 R/Size 5>>\nstartxref\n0\n%%EOF\n"
)


def run(server: str, name: str, *arguments: str, text: str = "") -> tuple[str, str]:
    """What the example prints, and what it says about who answered."""
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        input=text,
        capture_output=True,
        text=True,
        env={**os.environ, "DEEPSERVE_URL": f"{server}/v1"},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout, result.stderr


def test_there_is_an_example_for_every_pattern_and_the_page_names_it() -> None:
    patterns = {row.id.removeprefix("auto:").replace("-", "_") for row in load_presets().rows if row.cost_usd}
    found = {path.stem for path in EXAMPLES.glob("*.py")} - {"client"}
    assert found == patterns
    page = (EXAMPLES / "README.md").read_text()
    assert all(f"`{name}.py" in page for name in found)


def test_the_coding_agent_uses_its_tools_and_ends(mini_server: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("buy milk")
    output, told = run(mini_server, "coding_agent.py", str(tmp_path), "Read the file notes.txt.")
    assert output.strip()
    assert any(f"{tool}({{" in told for tool in ("list_files", "read_file", "write_file"))
    assert told.count("preset=auto:coding-agent") >= 2


def test_a_pdf_is_read(mini_server: str, tmp_path: Path) -> None:
    document = tmp_path / "sky.pdf"
    document.write_text(PDF)
    assert PdfReader(document).pages[0].extract_text() == "The sky is green."
    output, told = run(mini_server, "long_document.py", "What is green?", str(document))
    assert output.strip()
    assert "model=deepseek-v4-pro" in told


def test_a_review_is_json_that_can_be_read(mini_server: str) -> None:
    output, told = run(mini_server, "code_review.py", text=DIFF)
    assert all(line.split(":")[0] in ("bug", "risk", "style") for line in output.splitlines())
    assert "preset=auto:code-review" in told


def test_every_line_is_translated_in_its_place(mini_server: str) -> None:
    output, told = run(mini_server, "batch_translation.py", "German", text="good morning\n\nthank you\n")
    assert len(output.splitlines()) == 3
    assert output.splitlines()[1] == ""
    assert told.count("model=deepseek-v4-flash") == 2


def test_a_ticket_ends_in_a_queue_or_at_a_person(mini_server: str) -> None:
    output, told = run(mini_server, "support_triage.py", text="My invoice is wrong.")
    assert output.startswith(("Queue: billing", "Queue: technical", "Queue: account", "For a person"))
    assert "deepseek-v4-pro" not in told


def test_a_second_question_finds_the_folder_cached(mini_server: str, tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("The gate opens at nine. " * 40)
    output, told = run(mini_server, "in_context_rag.py", str(tmp_path), "When does it open?", "What opens at nine?")
    cached = [int(line.split(", ")[1].split()[0]) for line in output.splitlines() if line.endswith("cached)")]
    assert len(cached) == 2
    assert cached[1] > 200
    assert "model=deepseek-v4-pro" in told


def test_reasoning_says_what_it_used(mini_server: str) -> None:
    output, told = run(mini_server, "reasoning.py", "What is 3 + 4?")
    assert "tokens of thinking" in output
    assert "thinking=max" in told
