// What the page and its parts share: words, writing that changes few elements, and one loop.

import { rival } from "./engine.js";

/** The words of an element; only what differs is written. */
export function text(element, wanted) {
  if (element.textContent !== wanted) element.textContent = wanted;
}

export function html(element, wanted) {
  if (element.dataset.html !== wanted) {
    element.dataset.html = wanted;
    element.innerHTML = wanted;
  }
}

export function attribute(element, name, wanted) {
  if (element.getAttribute(name) !== wanted) element.setAttribute(name, wanted);
}

export function value(element, wanted) {
  if (element.value !== `${wanted}`) element.value = wanted;
}

export function article(digit) {
  return digit === 8 ? "an" : "a";
}

export function percent(share) {
  const hundred = 100 * share;
  return `${hundred < 9.95 && hundred > 0 ? hundred.toFixed(1) : hundred.toFixed(0)} %`;
}

/** A prediction, or the value that the reader set in its place. */
export function gWords(g, own, predicted) {
  const instead = predicted === undefined ? "" : ` (predicted ${predicted.toFixed(2)})`;
  return own ? `your g = ${g.toFixed(2)}${instead}` : `g = ${g.toFixed(2)}`;
}

export function fateWords(forced, fate) {
  return forced ? `forced ${forced > 0 ? "on" : "off"}, it ${fate}` : `it ${fate}`;
}

/** The button that holds is lit; none where the reader has set g (`how` is null). */
export function showForce(root, how) {
  for (const button of root.querySelectorAll("[data-force]")) {
    attribute(button, "aria-pressed", `${how !== null && Number(button.dataset.force) === how}`);
  }
}

/** Whose place a forced channel takes, or who takes its place: as many win as before. */
export function forcedWords(g, k, forced, channel) {
  if (!forced[channel]) return "";
  const on = forced[channel] > 0, other = rival(g, k, forced, channel);
  if (other === null) return ` It would have ${on ? "won" : "lost"} anyway.`;
  if (other === undefined) return on ? " No other had to give way." : " No other was left to take its place.";
  const swap = on ? "gave way to it" : "took its place";
  return ` Channel ${other} ${swap}, so as many win as before.`;
}

/** An empty place becomes a picture, with the colours that Python's plots have. */
export function furnish(root, colours, markup) {
  root.classList.add("fbs-live");
  for (const [name, colour] of Object.entries(colours)) root.style.setProperty(`--${name}`, colour);
  root.innerHTML = `${markup}
  <p class="fbs-failed" role="alert" hidden></p>
  <p class="fbs-status" role="status" aria-live="polite"></p>`;
}

/** What holds the outputs of one cell: in Jupyter, on the pages of the course, on Colab. */
const OUTPUTS = ".jp-OutputArea, .cell_output, #output-body, .output_wrapper > .output";

/** A still picture and its sentence stand before this one, for pages where nothing can move. */
export function hideStill(root) {
  const outputs = [...(root.closest(OUTPUTS)?.children ?? [])];
  const before = outputs.slice(0, outputs.findIndex((output) => output.contains(root)));
  const still = before.findLastIndex((output) => output.matches("img") || output.querySelector("img"));
  for (const output of still < 0 ? [] : before.slice(still)) output.style.display = "none";
}

/** Says to a screen reader what has changed, at most once a second and never nothing. */
export function makeSpeaker(element) {
  let last = -Infinity, waiting = 0;
  return (words) => {
    clearTimeout(waiting);
    const speak = () => {
      last = performance.now();
      text(element, words);
    };
    waiting = setTimeout(speak, Math.max(0, last + 1000 - performance.now()));
  };
}

/**
 * One loop: any number of events share a frame, which computes once and draws once. Where Python
 * computes, one question is under way at a time, and the newest state is asked next.
 * @param {Object} steps
 * @param {() => void} steps.compute
 * @param {() => void} steps.draw
 * @param {((request: Object) => Promise<Object>) | undefined} steps.ask
 * @param {() => Object} [steps.request]    what Python is asked
 * @param {(answer: Object) => void} [steps.take]  what Python answered, when it is no error
 * @param {() => void} [steps.soon]         what is drawn before Python answers
 */
export function makeLoop(root, { compute, draw, soon, ask, request, take }) {
  let frame = 0, asked = false, again = false, ended = false, drawn = 0, stale = false;

  /** How often it was drawn stands at the root, for who waits for it. */
  function show() {
    draw();
    drawn += 1;
    root.dataset.drawn = drawn;
  }

  async function question() {
    if (asked) {
      again = true;
      return;
    }
    asked = true;
    const slow = setTimeout(() => root.classList.add("fbs-waits"), 400);
    const answer = await ask(request());
    clearTimeout(slow);
    asked = false;
    if (ended) return;
    root.classList.remove("fbs-waits");
    fail(root, answer.error);
    if (!answer.error) {
      take(answer);
      show();
    }
    if (again) {
      again = false;
      update();
    }
  }

  /** The state is another: it is computed and drawn in the next frame. */
  function update() {
    stale = true;
    next();
  }

  /** The page is another, as wide as it is now, say: what is known is drawn again. */
  function redraw() {
    if (drawn) next();
  }

  function next() {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      if (!stale) return show();
      stale = false;
      if (ask) {
        soon?.();
        return question();
      }
      compute();
      show();
    });
  }

  function end() {
    ended = true;
    cancelAnimationFrame(frame);
  }

  /** At once, where the page itself computes: the first picture is there with the page. */
  function start() {
    if (ask) return update();
    compute();
    show();
  }

  return { start, update, redraw, end };
}

/** Shows what went wrong in Python above the last picture that was right, or takes it away. */
function fail(root, error) {
  const place = root.querySelector(".fbs-failed");
  place.hidden = !error;
  root.classList.toggle("fbs-stale", Boolean(error));
  if (error) text(place, error);
}
