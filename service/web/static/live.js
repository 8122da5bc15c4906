// Keeps a page up to date: fetches the part marked `data-live` again after events, and now and then.
// Without this script the page is complete; it only stays as it was when it was loaded.
"use strict";

(() => {
  const part = document.querySelector("[data-live]");
  if (!part || !window.fetch) return;
  const status = document.querySelector("[data-live-status]");
  const everySeconds = Number(part.dataset.everySeconds || 0);
  const pauseMilliseconds = 400;
  let stream = null;
  let timer = null;
  let busy = false;
  let again = false;
  let shown = part.innerHTML;

  const say = (text, kind) => {
    if (!status) return;
    status.hidden = !text;
    status.className = "live " + (kind || "");
    if (status.textContent !== text) status.textContent = text;
  };

  // What the reader has opened, scrolled or focused stays as it is when the content is replaced.
  const remember = () => ({
    opened: [...part.querySelectorAll("details[id]")].map((one) => [one.id, one.open]),
    scrolled: [...part.querySelectorAll(".scroll")].map((one) => one.scrollLeft),
    focused: focusPath(document.activeElement),
  });

  const focusPath = (element) => {
    if (!element || !part.contains(element) || element === part) return null;
    const steps = [];
    for (let one = element; one !== part; one = one.parentElement) {
      steps.unshift([...one.parentElement.children].indexOf(one));
    }
    return { steps, tag: element.tagName, address: element.getAttribute("href") };
  };

  const restore = ({ opened, scrolled, focused }) => {
    for (const [id, open] of opened) {
      const details = document.getElementById(id);
      if (details) details.open = open;
    }
    [...part.querySelectorAll(".scroll")].forEach((one, index) => { one.scrollLeft = scrolled[index] || 0; });
    if (!focused) return;
    const found = focused.steps.reduce((one, step) => one && one.children[step], part);
    if (found && found.tagName === focused.tag && found.getAttribute("href") === focused.address) {
      found.focus({ preventScroll: true });
    }
  };

  const selecting = () => {
    const selection = window.getSelection();
    return selection && !selection.isCollapsed && part.contains(selection.anchorNode);
  };

  const finish = () => {
    if (stream) stream.close();
    stream = null;
    if (timer) window.clearInterval(timer);
    timer = null;
    say("", "");
  };

  const refresh = async () => {
    if (busy) { again = true; return; }
    busy = true;
    try {
      const answer = await fetch(part.dataset.live, { headers: { accept: "text/html" }, credentials: "same-origin" });
      if (!answer.ok) throw new Error(String(answer.status));
      const text = await answer.text();
      if (text !== shown && !selecting()) {
        const kept = remember();
        part.innerHTML = text;
        shown = text;
        restore(kept);
      }
      if (part.querySelector('[data-ended="yes"]')) finish();
      else say("live", "on");
    } catch (error) {
      say("connection lost, trying again", "off");
    } finally {
      busy = false;
      if (again) { again = false; window.setTimeout(refresh, pauseMilliseconds); }
    }
  };

  let waiting = null;
  const soon = () => {
    if (waiting) return;
    waiting = window.setTimeout(() => { waiting = null; refresh(); }, pauseMilliseconds);
  };

  if (part.dataset.events) {
    stream = new EventSource(part.dataset.events);
    stream.onopen = () => say("live", "on");
    stream.onerror = () => say("connection lost, trying again", "off");
    for (const kind of part.dataset.kinds.split(" ")) stream.addEventListener(kind, soon);
    // The server says when there will be no more; without this EventSource would connect again for ever.
    stream.addEventListener("end", () => { if (stream) stream.close(); stream = null; refresh(); });
  }
  if (everySeconds && !("pinned" in part.dataset)) {
    timer = window.setInterval(() => { if (!document.hidden) refresh(); }, everySeconds * 1000);
  }
})();
