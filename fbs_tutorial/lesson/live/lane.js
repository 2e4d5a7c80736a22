// A lane of channels: a canvas that shows them, and over it one button for each.

import { attribute } from "./dom.js";

export const LANE = `<canvas role="img"></canvas><div class="fbs-chips" role="group"></div>`;

/**
 * @typedef {Object} LaneEvents
 * @property {(channel: number) => string} describe   what a screen reader says of a channel
 * @property {(channel: number) => void} look         a channel is chosen
 * @property {(channel: number) => void} [turn]       a click, enter or space
 * @property {(channel: number) => number} [grab]     the value where a drag begins
 * @property {(channel: number, from: number, share: number) => void} [drag]
 *           moved by this share of the height of a bar; also what plus and minus do
 * @property {() => void} [rest]                      the hand rests
 */

/**
 * Buttons that can be clicked, dragged up and down, and reached with the arrow keys.
 * @param {(target: EventTarget, type: string, handler: Function) => void} on
 * @param {LaneEvents} events
 */
export function makeLane(box, on, events) {
  const chips = box.querySelector(".fbs-chips"), canvas = box.querySelector("canvas");
  let key = "", columns = 1, names = 0, hold = null, height = 36;
  const channelOf = (target) => target.closest?.("[data-channel]")?.dataset.channel;

  on(chips, "pointerdown", (event) => {
    const channel = channelOf(event.target);
    if (channel === undefined || event.pointerType === "touch") return;
    hold = { channel: Number(channel), y: event.clientY, from: events.grab?.(Number(channel)), moved: false };
    chips.setPointerCapture(event.pointerId);
  });
  on(chips, "pointermove", (event) => {
    if (!hold || !events.drag) return;
    hold.moved ||= Math.abs(event.clientY - hold.y) > 3;
    if (hold.moved) events.drag(hold.channel, hold.from, (hold.y - event.clientY) / height);
  });
  on(chips, "pointerup", () => {
    if (!hold) return;
    const { channel, moved } = hold;
    hold = null;
    if (moved) events.rest?.();
    else (events.turn ?? events.look)(channel);
  });
  on(chips, "click", (event) => {
    const channel = channelOf(event.target);
    if (channel !== undefined && event.pointerType !== "mouse" && event.pointerType !== "pen") {
      (events.turn ?? events.look)(Number(channel)); // a finger, or a screen reader
    }
  });
  on(chips, "focusin", (event) => {
    for (const chip of chips.children) chip.tabIndex = chip === event.target ? 0 : -1;
    if (event.target.matches(":focus-visible")) events.look(Number(channelOf(event.target)));
  });
  on(chips, "keydown", (event) => {
    const channel = Number(event.target.dataset.channel);
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    const steps = { "+": 1, "=": 1, "-": -1 }[event.key];
    if (event.key in moves) chips.children[channel + moves[event.key]]?.focus();
    else if (event.key === "Enter" || event.key === " ") (events.turn ?? events.look)(channel);
    else if (steps && events.drag) {
      events.drag(channel, events.grab(channel), steps / 20);
      events.rest?.();
    } else return;
    event.preventDefault();
  });

  /** Put right when the hand rests, not in every frame. */
  function nameAll() {
    for (const chip of chips.children) attribute(chip, "aria-label", events.describe(Number(chip.dataset.channel)));
  }

  return {
    canvas,
    /** As many buttons as the grid has places, named anew a little later. */
    lay(name, count, grid, chosen) {
      height = grid.bar - 8;
      columns = grid.columns;
      const wanted = `${name} ${count} ${columns} ${grid.cell} ${grid.height}`;
      clearTimeout(names);
      if (key === wanted) {
        names = setTimeout(nameAll, 250);
        return;
      }
      key = wanted;
      chips.style.gridTemplateColumns = `repeat(${columns}, ${grid.cell}px)`;
      chips.style.gridAutoRows = `${grid.height}px`;
      attribute(chips, "aria-label", name);
      chips.innerHTML = [...Array(count).keys()]
        .map((c) => `<button type="button" data-channel="${c}" tabindex="${c === chosen ? 0 : -1}"></button>`)
        .join("");
      nameAll();
    },
    end: () => clearTimeout(names),
  };
}
