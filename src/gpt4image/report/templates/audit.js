"use strict";
const items = [...document.querySelectorAll(".item")];
const storage = "gpt4image audit " + document.querySelector(".audit-bar").dataset.created;
let decisions = {}, current = 0;
try { decisions = JSON.parse(localStorage.getItem(storage)) || {}; } catch { /* private windows have no storage */ }

const key = (item) => item.dataset.id + " " + item.dataset.given;
const quote = (text) => /[",\r\n]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;

function csv() {
  const lines = ["id,path,given,decision,label"];
  for (const item of items) {
    const found = decisions[key(item)];
    if (found) lines.push([item.dataset.id, item.dataset.path, item.dataset.given, found.decision, found.label].map(quote).join(","));
  }
  return lines.join("\r\n") + "\r\n";
}

function show() {
  for (const [place, item] of items.entries()) {
    const found = decisions[key(item)];
    item.classList.toggle("current", place === current);
    item.dataset.decision = found ? found.decision : "";
    item.querySelector(".decision").textContent = !found ? "" :
      found.decision === "relabel" ? "→ " + found.label : found.decision === "drop" ? "dropped" : "label kept";
    item.querySelector("select").value = found && found.decision === "relabel" ? found.label : "";
  }
  const done = items.filter((item) => decisions[key(item)]).length;
  document.querySelector("#progress").textContent = done + " of " + items.length + " decided";
  document.querySelector("#save").disabled = done === 0;
}

function go(place) {
  current = Math.max(0, Math.min(items.length - 1, place));
  show();
  if (items.length) items[current].scrollIntoView({ block: "center" });
}

function decide(item, decision, label) {
  if (decision) decisions[key(item)] = { decision, label: label || "" };
  else delete decisions[key(item)];
  try { localStorage.setItem(storage, JSON.stringify(decisions)); } catch { /* as above */ }
  go(items.indexOf(item) + (decision ? 1 : 0));
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = "corrections.csv";
  link.click();
  URL.revokeObjectURL(link.href);
}

const actions = {
  a: (item, label) => (label || item.dataset.suggested) && decide(item, "relabel", label || item.dataset.suggested),
  k: (item) => decide(item, "keep"),
  d: (item) => decide(item, "drop"),
  u: (item) => decide(item, ""),
  c: (item) => item.querySelector("select").focus(),
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
  if (event.key === "ArrowDown" || event.key === "n") { event.preventDefault(); go(current + 1); }
  else if (event.key === "ArrowUp" || event.key === "p") { event.preventDefault(); go(current - 1); }
  else if (event.key === "s" && !document.querySelector("#save").disabled) save();
  else if (actions[event.key] && items.length) actions[event.key](items[current]);
});
for (const item of items) {
  item.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) actions[button.dataset.action](item, button.dataset.label);
    else if (event.target.tagName !== "SELECT") go(items.indexOf(item));
  });
  item.querySelector("select").addEventListener("change", (event) => {
    const label = event.target.value;
    event.target.blur();
    if (label) decide(item, label === item.dataset.given ? "keep" : "relabel", label === item.dataset.given ? "" : label);
  });
}
document.querySelector("#save").addEventListener("click", save);
show();
