// The picture as an anywidget: what the hand did goes to Python when the hand rests, and back.

/** Names of the layers in the payload, as keys of what travels. */
function densityOf(payload, state) {
  const all = payload.layers.every((l, i) => state.k[i] === activeChannels(l.outputs, state.density));
  if (all) return state.density;
  return Object.fromEntries(payload.layers.map((l, i) => [l.name, state.k[i] / l.outputs]));
}

function forcedOf(payload, state) {
  const layers = payload.layers.map((layer, i) => {
    const forced = Object.fromEntries(state.g[i]);
    state.forced[i].forEach((how, c) => {
      if (how) forced[c] = how > 0 ? "on" : "off";
    });
    return [layer.name, forced];
  });
  return Object.fromEntries(layers.filter(([, forced]) => Object.keys(forced).length));
}

function fromPython(payload, name, value) {
  if (name === "image") return { strokes: null, digit: null, image: Float32Array.from(value) };
  if (name === "density" && typeof value === "number") return { density: value };
  const by = (make) => payload.layers.map((layer) => make(layer, value[layer.name] ?? {}));
  if (name === "density") return { k: payload.layers.map((l) => activeChannels(l.outputs, value[l.name])) };
  return {
    forced: by((layer, given) => {
      const flags = new Int8Array(layer.outputs);
      for (const [c, how] of Object.entries(given)) flags[c] = { on: 1, off: -1 }[how] ?? 0;
      return flags;
    }),
    g: by((_, given) => new Map(Object.entries(given)
      .filter(([, how]) => typeof how === "number").map(([c, how]) => [Number(c), how]))),
  };
}

function render({ model, el }) {
  const payload = model.get("payload");
  const root = document.createElement("div");
  el.append(root);
  let own = false; // the change is ours, and not to be taken back from the model
  const live = mount(root, payload, {
    onCommit(state) {
      own = true;
      model.set("image", [...state.image]);
      model.set("density", densityOf(payload, state));
      model.set("forced", forcedOf(payload, state));
      model.save_changes();
      own = false;
    },
  });
  const stops = ["image", "density", "forced"].map((name) => {
    const take = () => own || live.set(fromPython(payload, name, model.get(name)));
    take();
    model.on(`change:${name}`, take);
    return () => model.off(`change:${name}`, take);
  });
  return () => {
    stops.forEach((stop) => stop());
    live.destroy();
  };
}

export default { render };
