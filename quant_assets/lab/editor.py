"""A text editor with line numbers that shows each problem in the line it belongs to. Our own HTML, CSS and JavaScript.

What is typed lies over a drawn copy of it, in which lines are numbered, coloured and marked. Text only ever becomes
text nodes there, never HTML.
"""

from collections.abc import Sequence

import streamlit as st

from quant_assets.strategy.versions import Problem

_HTML = """
<div class="frame"><div class="sheet"><pre aria-hidden="true"></pre>
<textarea spellcheck="false" autocapitalize="off" autocomplete="off" autocorrect="off" wrap="off"></textarea>
</div></div>
"""
_CSS = """
.frame { border: 1px solid var(--st-border-color); border-radius: var(--st-base-radius); overflow: auto;
  max-height: 72vh; background: var(--st-secondary-background-color); }
.frame:focus-within { border-color: var(--st-primary-color); }
.sheet { position: relative; min-width: 100%; width: max-content; box-sizing: border-box; padding: 0.5rem 0; }
pre, textarea { margin: 0; font-family: var(--st-code-font); font-size: 0.8125rem; line-height: 1.25rem; tab-size: 2;
  letter-spacing: normal; font-variant-ligatures: none; }
pre { color: var(--st-text-color); padding-right: 1rem; }
pre div { white-space: pre; min-height: 1.25rem; }
pre i { display: inline-block; box-sizing: border-box; width: 3.25rem; padding-right: 0.75rem; text-align: right;
  font-style: normal; opacity: 0.45; position: sticky; left: 0; }
pre .key { color: var(--st-primary-color); }
pre .comment { opacity: 0.55; }
pre .bad { background: var(--st-red-background-color); box-shadow: inset 3px 0 0 var(--st-red-color); }
pre .bad i { opacity: 1; color: var(--st-red-text-color); font-weight: 700; }
pre b { color: var(--st-red-text-color); font-weight: 500; font-family: var(--st-font); padding-left: 1.5rem; }
textarea { position: absolute; inset: 0; box-sizing: border-box; width: 100%; height: 100%; border: 0; outline: 0;
  resize: none; overflow: hidden; white-space: pre; padding: 0.5rem 0 0 3.25rem; background: transparent;
  color: transparent; caret-color: var(--st-text-color); }
"""
_JS = """
const PAUSE = 350;

function drawn(line, at, problems) {
  const row = document.createElement("div");
  const add = (tag, text, name) => {
    const node = document.createElement(tag);
    node.textContent = text;
    if (name) node.className = name;
    row.append(node);
  };
  add("i", String(at + 1));
  const [, indent, key, rest] = line.match(/^([ -]*)([\\w.]+:(?= |$))?(.*)$/);
  const hash = rest.search(/(^| )#/);
  add("span", indent);
  if (key) add("span", key, "key");
  add("span", hash < 0 ? rest : rest.slice(0, hash));
  if (hash >= 0) add("span", rest.slice(hash), "comment");
  const here = problems.filter((problem) => problem.line === at + 1).map((problem) => problem.text);
  if (here.length) {
    row.className = "bad";
    add("b", here.join("  \\u00b7  "));
  }
  return row;
}

export default function ({ parentElement, data, setStateValue }) {
  const area = parentElement.querySelector("textarea");
  const copy = parentElement.querySelector("pre");
  const draw = () => {
    const lines = area.value.split("\\n");
    const known = data.problems.map((one) => ({ ...one, line: Math.min(one.line, lines.length) }));
    copy.replaceChildren(...lines.map((line, at) => drawn(line, at, known)));
    area.setAttribute("aria-invalid", String(data.problems.length > 0));
  };
  const send = () => {
    clearTimeout(area.waiting);
    if (area.value !== area.sent) setStateValue("text", (area.sent = area.value));
  };
  if (area.sent === undefined) area.value = area.sent = data.text;
  area.setAttribute("aria-label", data.label);
  area.oninput = () => {
    draw();
    clearTimeout(area.waiting);
    area.waiting = setTimeout(send, PAUSE);
  };
  area.onblur = send;
  area.onkeydown = (event) => {
    if (event.key !== "Enter" || event.isComposing || event.ctrlKey || event.metaKey) return;
    const before = area.value.slice(0, area.selectionStart);
    event.preventDefault();
    document.execCommand("insertText", false, "\\n" + before.match(/[^\\n]*$/)[0].match(/^ */)[0]);
  };
  draw();
}
"""
_COMPONENT = st.components.v2.component("quant_editor", html=_HTML, css=_CSS, js=_JS)


def typed(key: str, text: str) -> str:
    """What the editor `key` holds now, before it is drawn; `text` if it was not drawn yet."""
    return str(st.session_state.get(key, {}).get("text", text))


def editor(label: str, text: str, problems: Sequence[Problem], key: str) -> None:
    """Draw the editor `key`, which begins with `text`; another key begins anew.

    Args:
        text: `typed`.
        problems: of `text`, marked in their lines.
    """
    told = [{"line": one.line, "text": f"{one.field}: {one.message}" if one.field else one.message} for one in problems]
    data = {"label": label, "text": text, "problems": told}
    _COMPONENT(key=key, data=data, default={"text": text}, on_text_change=lambda: None)
