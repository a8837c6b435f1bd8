"""What users name becomes text in LaTeX, and no command."""

import by_hand

from vfd_tf import text
from vfd_tf.suites.report import tables


def test_what_users_call_a_row_is_text_in_latex():
    name = "\\a{b}^c~$d$_50% & #1"
    written = (
        r"\textbackslash{}a\{b\}\textasciicircum{}c\textasciitilde{}\$d\$\_50\% \& \#1"
    )
    assert f"{written} & " in text.latex(["row", "x"], [[name, "1"]])
    rows = [by_hand.row_of(f"A+{name}", {"clean": 60.0}), by_hand.row_of("A", {name: 1.0})]
    found = by_hand.summed(*rows, columns=("clean",))
    tex = tables.latex(found, rows[:1])
    assert f"A+{written} & 60.0" in tex
    assert r"\multicolumn" not in tex and r"\begin{tabular}{lr}" in tex
