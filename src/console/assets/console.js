// Everything works without this script. It refreshes live parts, shows local times, and adds keys.
"use strict";

const REFRESH_MILLIS = 5000;
let isPaused = false;

// Shows each instant in the time zone of the reader; the title has UTC.
function showLocalTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const instant = new Date(time.dateTime);
    if (Number.isNaN(instant.getTime())) continue;
    time.title = time.dateTime;
    time.textContent = instant.toLocaleString(document.documentElement.lang,
      { dateStyle: "medium", timeStyle: "medium" });
  }
}

// A part is in use while it has the focus, a selection, or a form.
function isInUse(part) {
  const selection = document.getSelection();
  const isSelected = selection && !selection.isCollapsed && part.contains(selection.anchorNode);
  return part.contains(document.activeElement) || isSelected || part.querySelector("form") !== null;
}

async function load() {
  const response = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!response.ok) return null;
  return new DOMParser().parseFromString(await response.text(), "text/html");
}

async function refresh() {
  const parts = document.querySelectorAll("[data-live]");
  const isTyping = document.activeElement?.matches("input, textarea, select");
  if (isPaused || document.hidden || isTyping || parts.length === 0) return;
  const page = await load().catch(() => null); // The next refresh tries again.
  const stale = document.getElementById("stale");
  if (stale !== null) stale.hidden = page !== null;
  if (page === null) return;
  for (const part of parts) {
    const next = page.getElementById(part.id);
    if (next === null || isInUse(part)) continue;
    showLocalTimes(next);
    if (next.innerHTML !== part.innerHTML || next.className !== part.className) {
      part.className = next.className;
      part.replaceChildren(...next.childNodes);
    }
  }
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, textarea, select")) return;
  if (event.key === "/") {
    event.preventDefault();
    document.getElementById("search")?.focus();
  } else if (event.key === "p" && document.querySelector("[data-slip]")) {
    window.print();
  }
}

showLocalTimes(document);
document.addEventListener("keydown", onKey);
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
const pause = document.getElementById("pause");
if (pause !== null) {
  pause.hidden = false;
  pause.addEventListener("click", () => {
    isPaused = !isPaused;
    pause.textContent = isPaused ? "Resume refresh" : "Pause refresh";
    pause.setAttribute("aria-pressed", String(isPaused));
  });
}
setInterval(refresh, REFRESH_MILLIS);
