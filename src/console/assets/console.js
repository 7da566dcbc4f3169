// Everything works without this script. It refreshes live parts, shows local times, and adds keys.
"use strict";

const REFRESH_MILLIS = 5000;
const NEXT_STEP_MILLIS = 1000;
const SECOND_KEY_MILLIS = 1500;
const KEYS_ITEM = "patron-blocks.single-keys";
let areKeysOff = false;
let firstKeyAt = -SECOND_KEY_MILLIS;
let isPaused = false;
let isLoading = false;

// Shows each instant in the time zone of the reader; the title has UTC.
function showLocalTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const instant = new Date(time.dateTime);
    if (Number.isNaN(instant.getTime())) continue;
    time.title = time.dateTime;
    time.textContent = instant.toLocaleString(document.documentElement.lang,
      { dateStyle: "medium", timeStyle: "long" });
  }
}

// Returns the page as it is now, or the name of the sentence why it cannot be loaded.
async function load() {
  const response = await fetch(location.href, {
    headers: { Accept: "text/html" }, signal: AbortSignal.timeout(REFRESH_MILLIS - 500),
  });
  if (response.status === 401) return "ended";
  const page = new DOMParser().parseFromString(response.ok ? await response.text() : "", "text/html");
  // Another page, for example that of a login, is no refresh.
  return page.getElementById("status") === null ? "failed" : page;
}

// A part is in use while it has the focus, a selection, or a form with text. The frame of a table may have the focus.
function isInUse(part) {
  const selection = document.getSelection();
  const isSelected = selection !== null && !selection.isCollapsed && selection.rangeCount > 0
    && selection.getRangeAt(0).intersectsNode(part);
  const focused = document.activeElement;
  const isFilledIn = [...part.querySelectorAll("input")].some((input) => input.value !== input.defaultValue);
  return isSelected || isFilledIn || (part.contains(focused) && !focused.matches(".scroll"));
}

function frameOf(part, label) {
  return [...part.querySelectorAll(".scroll")].find((frame) => frame.ariaLabel === label);
}

function replace(part, next) {
  const focused = part.contains(document.activeElement) ? document.activeElement : null;
  part.replaceChildren(...next.childNodes);
  const frame = focused && frameOf(part, focused.ariaLabel);
  if (!frame) return;
  frame.scrollLeft = focused.scrollLeft;
  frame.focus({ preventScroll: true });
}

// Replaces what has changed. Returns whether a part that has changed is in use.
function update(page) {
  let isSkipped = false;
  for (const text of document.querySelectorAll("[data-text]")) {
    const next = page.getElementById(text.id);
    if (next !== null && next.textContent !== text.textContent) text.textContent = next.textContent;
  }
  document.getElementById("strip").className = page.getElementById("strip").className;
  for (const part of document.querySelectorAll("[data-live]")) {
    const next = page.getElementById(part.id);
    if (next === null) {
      isSkipped = true;
      continue;
    }
    showLocalTimes(next);
    if (next.innerHTML === part.innerHTML) continue;
    if (isInUse(part)) isSkipped = true; else replace(part, next);
  }
  return isSkipped;
}

// The page has the sentences, in the language of the reader.
function showStale(name) {
  const stale = document.getElementById("stale");
  const sentence = name === null ? "" : stale.dataset[name] ?? stale.dataset.failed;
  if (stale.textContent !== sentence) stale.textContent = sentence;
  stale.hidden = sentence === "";
}

async function refresh() {
  const isTyping = document.activeElement?.matches("input, textarea, select");
  if (isPaused || isLoading || document.hidden || isTyping) return;
  isLoading = true;
  const page = await load().catch(() => "failed"); // The next refresh tries again.
  isLoading = false;
  if (typeof page === "string") showStale(page);
  else showStale(update(page) ? "inUse" : null);
}

function onKey(event) {
  if (areKeysOff || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, textarea, select")) return;
  const isSecond = event.timeStamp - firstKeyAt < SECOND_KEY_MILLIS;
  firstKeyAt = event.key === "g" ? event.timeStamp : -SECOND_KEY_MILLIS;
  if (isSecond) {
    document.querySelector(`[data-key="${CSS.escape(event.key)}"]`)?.click();
  } else if (event.key === "/") {
    event.preventDefault();
    document.getElementById("search")?.focus();
  } else if (event.key === "?") {
    document.getElementById("help")?.click();
  } else if (event.key === "p" && document.querySelector("[data-slip]")) {
    window.print();
  }
}

showLocalTimes(document);
document.addEventListener("keydown", onKey);
const isStatic = document.querySelector("[data-static]") !== null;
document.addEventListener("visibilitychange", () => { if (!document.hidden && !isStatic) refresh(); });
// A double click on the button of a form acts once.
document.addEventListener("submit", (event) => {
  if (event.target.dataset.sent) event.preventDefault(); else if (event.target.method === "post") event.target.dataset.sent = "yes";
});
// Single keys can disturb speech input. A browser may forbid the storage; then the choice ends with its page.
try { areKeysOff = localStorage.getItem(KEYS_ITEM) === "off"; } catch { /* The keys are on. */ }
const keys = document.getElementById("keys");
function switchKeys(areOff) {
  areKeysOff = areOff;
  document.getElementById("keys-state").textContent = keys.dataset[areOff ? "areOff" : "areOn"];
  keys.textContent = keys.dataset[areOff ? "switchOn" : "switchOff"];
  try { localStorage.setItem(KEYS_ITEM, areOff ? "off" : "on"); } catch { /* Only this page has the choice. */ }
}
if (keys !== null) {
  keys.hidden = false;
  keys.addEventListener("click", () => switchKeys(!areKeysOff));
  switchKeys(areKeysOff);
}
const pause = document.getElementById("pause");
if (pause !== null) {
  pause.hidden = false;
  const [stop, resume] = [pause.textContent, pause.dataset.resume];
  pause.addEventListener("click", () => {
    isPaused = !isPaused;
    pause.textContent = isPaused ? resume : stop;
    pause.setAttribute("aria-pressed", String(isPaused));
  });
}
// The answer to a form is what the reader asked for at that moment.
if (!isStatic) setInterval(refresh, REFRESH_MILLIS);
// An act of several steps goes on while its page is open.
const step = document.querySelector("form[data-continue]");
if (step !== null) setTimeout(() => { if (!isPaused) step.requestSubmit(); }, NEXT_STEP_MILLIS);
