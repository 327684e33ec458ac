"""What a table for LaTeX must be, without LaTeX."""

import re


def check_latex(text: str) -> None:
    """Balanced environments, braces and maths; booktabs' rules in order; as many cells in each row as columns."""
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    body = "\n".join(lines)
    plain = re.sub(r"\\[\\{}$&#_%]", "", body.replace("\\\\\n", "\n"))  # without escaped characters
    assert plain.count("{") == plain.count("}")
    assert all(line.count("$") % 2 == 0 for line in plain.splitlines())
    assert not re.search(r"[#^~]", re.sub(r"\$[^$]*\$", "", plain))
    opened: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
        if kind == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert opened == []
    tables = re.findall(r"\\begin\{tabular\}\{((?:[^{}]|\{[^{}]*\})*)\}(.*?)\\end\{tabular\}", body, re.DOTALL)
    assert tables
    for columns, content in tables:
        count = len(re.sub(r"\{[^{}]*\}", "", columns))
        assert re.findall(r"\\(\w+rule)", content) == ["toprule", "midrule", "bottomrule"]
        for row in re.findall(r"^ *(.*) \\\\$", content, re.MULTILINE):
            assert len(re.findall(r"(?<!\\)&", row)) == count - 1
