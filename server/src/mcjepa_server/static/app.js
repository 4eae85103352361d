// The page: tabs, theme, the server's state, the API key.

import { getJson, hasKey, setKey } from "./api.js";
import { $, $$ } from "./dom.js";
import { showFailure, showInfo } from "./limits.js";
import { PairTab } from "./pair.js";
import { SimilarTab } from "./similar.js";
import { VideoTab } from "./video.js";

const REFRESH_MS = 15_000;

// A file dropped beside its place must not replace the page.
for (const type of ["dragover", "drop"]) addEventListener(type, (event) => event.preventDefault());

// ---- Tabs (the ARIA pattern: arrow keys move between them)

const tabs = $$("[role=tab]");

function choose(tab, { focus = false } = {}) {
  for (const other of tabs) {
    const on = other === tab;
    other.setAttribute("aria-selected", on);
    other.tabIndex = on ? 0 : -1;
    $(`#${other.getAttribute("aria-controls")}`).hidden = !on;
  }
  history.replaceState(null, "", `#${tab.getAttribute("aria-controls")}`);
  if (focus) tab.focus();
}

tabs.forEach((tab, index) => {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const target = { Home: 0, End: tabs.length - 1 }[event.key] ?? (step && (index + step + tabs.length) % tabs.length);
    if (target === undefined) return;
    event.preventDefault();
    choose(tabs[target], { focus: true });
  });
});

function chooseByAddress() {
  const tab = $(`[role=tab][aria-controls="${CSS.escape(location.hash.slice(1))}"]`);
  if (tab) choose(tab);
}
addEventListener("hashchange", chooseByAddress);

// ---- Theme: the system's, until the button is pressed

const dark = matchMedia("(prefers-color-scheme: dark)");

function showTheme() {
  const theme = document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
  $("#theme").setAttribute("aria-label", `Switch to ${theme === "dark" ? "light" : "dark"} colours`);
  return theme;
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("theme", theme);
  showTheme();
}

$("#theme").addEventListener("click", () => setTheme(showTheme() === "dark" ? "light" : "dark"));
dark.addEventListener("change", showTheme);
if (localStorage.getItem("theme")) setTheme(localStorage.getItem("theme"));
showTheme();

// ---- API key: asked for when the server wants one, kept in memory only

let afterKey = null;

function askKey(then) {
  afterKey = then;
  $("#key-button").hidden = false;
  if (!$("#key-dialog").open) $("#key-dialog").showModal();
}

$("#key-dialog").addEventListener("close", () => {
  const given = $("#key-dialog").returnValue === "use" && $("#key").value;
  $("#key-dialog").returnValue = "";
  if (!given) return;
  setKey(given.trim());
  $("#key").value = "";
  refresh();
  afterKey?.();
});
$("#key-button").addEventListener("click", () => askKey(null));
document.addEventListener("key-needed", (event) => askKey(event.detail));

// ---- The server's state

let locked = false; // until a key is given, asking again is of no use

async function refresh() {
  try {
    showInfo(await getJson("v1/info"));
    locked = false;
  } catch (error) {
    if (error.status === 429) return; // busy is no news
    locked = error.status === 401;
    if (locked) $("#key-button").hidden = false;
    showFailure(locked ? (hasKey() ? "key refused" : "API key needed") : "not reachable");
  }
}

$("#status").addEventListener("click", () => {
  $("#about").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  $("#about").focus({ preventScroll: true });
});

new PairTab($("#pair"));
new VideoTab($("#video"));
new SimilarTab($("#images"));
chooseByAddress();
refresh();
setInterval(() => document.hidden || locked || refresh(), REFRESH_MS);
