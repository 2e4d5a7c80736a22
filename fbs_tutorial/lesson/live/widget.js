// The picture as an anywidget: what the hand did goes to Python when the hand rests, and back.

/** Asks Python, and gives its numbers as arrays: one message there, one with a buffer back. */
function makeAsker(model) {
  const waiting = new Map(), view = crypto.getRandomValues(new Uint32Array(1))[0]; // of several
  let last = 0;
  const hear = (message, buffers) => {
    waiting.get(message.id)?.(message.error ? message : unpack(message.index, buffers[0]));
    waiting.delete(message.id);
  };
  model.on("msg:custom", hear);
  return {
    ask: (request) => new Promise((done) => {
      last += 1;
      const id = `${view} ${last}`; // what Python answers reaches all views
      waiting.set(id, done);
      model.send({ id, request });
    }),
    end: () => model.off("msg:custom", hear),
  };
}

/** Floats by name; hosts give a DataView at any offset, and floats need one of their own. */
function unpack(index, view) {
  const bytes = view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength);
  const floats = new Float32Array(bytes);
  return Object.fromEntries(
    Object.entries(index).map(([name, [start, length]]) => [name, floats.subarray(start, start + length)]));
}

function render({ model, el }) {
  const payload = model.get("payload");
  const root = document.createElement("div");
  el.append(root);
  let own = false; // the change is ours, and not to be taken back from the model
  const asker = payload.python ? makeAsker(model) : null;
  const live = mount(root, payload, {
    ask: asker?.ask,
    onCommit() {
      own = true;
      for (const [name, { out }] of Object.entries(live.travels)) model.set(name, out());
      model.save_changes();
      own = false;
    },
  });
  const stops = Object.entries(live.travels).map(([name, { into }]) => {
    const take = () => own || live.set(into(model.get(name)));
    take();
    model.on(`change:${name}`, take);
    return () => model.off(`change:${name}`, take);
  });
  return () => {
    stops.forEach((stop) => stop());
    asker?.end();
    live.destroy();
  };
}

export default { render };
