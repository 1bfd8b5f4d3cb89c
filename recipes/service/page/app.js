// The page of a simulator. What people type and what models write is only ever set as text.
"use strict";

const LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const FIELDS = ["Stimulus", "Stimulus Factors", "Knowledge", "Knowledge Factors", "Evaluation", "Evaluation Style"];
const FIRST = 5; // options that are shown at first
const at = (id) => document.getElementById(id);
const lines = (id) => at(id).value.split("\n").map((line) => line.trim()).filter(Boolean);
const space = document.body.dataset.where === "space";

let shown = [];      // texts on the screen, in order
let before = null;   // probabilities of the answer before, by text
let last = null;     // of the last answer
let asked = [];       // texts of the question that is being answered
let running = null;  // stops what is going on
let model = {};

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function button(sign, says, act) {
  const made = element("button", sign);
  made.type = "button";
  made.title = says;
  made.setAttribute("aria-label", says);
  made.addEventListener("click", act);
  return made;
}

function address(path) {
  const typed = at("endpoint").value.trim().replace(/\/+$/, "").replace(/\/v1$/, "");
  return (typed || (space ? "" : window.location.origin)) + path;
}

function unaddressed() {
  return space && !at("endpoint").value.trim();
}

function headers() {
  const token = at("token").value.trim();
  const sent = { "Content-Type": "application/json" };
  if (token) sent.Authorization = "Bearer " + token;
  return sent;
}

function say(text, kind) {
  at("status").textContent = text;
  at("status").className = kind || "";
}

// -- the screen -----------------------------------------------------------------------------------

function unshown() {
  return lines("catalogue").filter((item) => !shown.includes(item));
}

function drawShown() {
  const rest = unshown();
  at("shown").replaceChildren(...shown.map((text, place) => {
    const row = element("li");
    const tools = element("span", undefined, "tools");
    const swap = button("⇄", `Swap ${LABELS[place]} for another item`, () => {
      const next = nextAfter(text, rest);
      if (next) { shown[place] = next; drawShown(); }
    });
    swap.disabled = rest.length === 0;
    const up = button("↑", `Move ${LABELS[place]} up`, () => {
      [shown[place - 1], shown[place]] = [shown[place], shown[place - 1]];
      drawShown();
    });
    up.disabled = place === 0;
    const out = button("×", `Take ${LABELS[place]} off the screen`, () => { shown.splice(place, 1); drawShown(); });
    out.disabled = shown.length <= 2;
    tools.append(up, swap, out);
    row.append(element("span", LABELS[place], "label"), element("span", text, "text"), tools);
    return row;
  }));
  at("count").textContent = `${lines("catalogue").length} items`;
  at("add").disabled = rest.length === 0 || shown.length >= LABELS.length;
  at("shuffle").disabled = rest.length === 0;
}

// The item that follows in the catalogue, so that swapping again and again shows all of them.
function nextAfter(text, rest) {
  const all = lines("catalogue");
  const start = all.indexOf(text);
  for (let step = 1; step <= all.length; step += 1) {
    const item = all[(start + step + all.length) % all.length];
    if (rest.includes(item)) return item;
  }
  return rest[0];
}

function others() {
  const rest = unshown();
  const count = Math.max(2, Math.min(shown.length || FIRST, LABELS.length));
  shown = [...rest, ...shown].slice(0, count);
  drawShown();
}

function fromCatalogue() {
  const all = [...new Set(lines("catalogue"))];
  shown = shown.filter((text) => all.includes(text));
  for (const item of all) {
    if (shown.length >= Math.min(FIRST, all.length)) break;
    if (!shown.includes(item)) shown.push(item);
  }
  drawShown();
}

// -- asking ---------------------------------------------------------------------------------------

function question() {
  const asked = {
    profile: at("profile").value,
    history: lines("history"),
    exposure: shown,
    samples: Math.max(1, Math.min(16, Number(at("samples").value) || 1)),
    seed: Math.max(0, Math.floor(Number(at("seed").value) || 0)),
    guided: at("guided").checked,
    stream: true,
  };
  if (at("mode").value) asked.mode = at("mode").value;
  if (model.calibrated) asked.coverage = 0.9;
  return asked;
}

async function ask() {
  if (running) return;
  if (unaddressed()) {
    at("connection").open = true;
    say("Give the address of a service first.", "bad");
    return;
  }
  running = new AbortController();
  at("ask").disabled = true;
  at("stop").hidden = false;
  at("process").hidden = true;
  say("Asking …", "busy");
  asked = shown.slice();
  if (window.matchMedia("(max-width: 46rem)").matches) at("answer").scrollIntoView({ behavior: "smooth" });
  try {
    const answer = await fetch(address("/v1/choose"), {
      method: "POST", headers: headers(), body: JSON.stringify(question()), signal: running.signal,
    });
    if (!answer.ok) throw new Error(await refusal(answer));
    for await (const [name, value] of events(answer.body)) take(name, value);
  } catch (error) {
    const stopped = error.name === "AbortError";
    const lost = error instanceof TypeError ? "The service cannot be reached." : error.message;
    say(stopped ? "Stopped." : lost, stopped ? "" : "bad");
  }
  running = null;
  at("ask").disabled = false;
  at("stop").hidden = true;
}

async function refusal(answer) {
  if (answer.status === 401) at("connection").open = true;
  let said = "";
  try { said = (await answer.json()).error.message; } catch { said = `The service says ${answer.status}.`; }
  const wait = answer.headers.get("Retry-After");
  return answer.status === 429 && wait ? `Many are asking: try again in ${wait} s.` : said;
}

// Yields name and value of server-sent events.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    let end;
    while ((end = text.indexOf("\n\n")) >= 0) {
      const event = text.slice(0, end).split("\n");
      text = text.slice(end + 2);
      const name = event.find((line) => line.startsWith("event: "));
      const data = event.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (name) yield [name.slice(7), JSON.parse(data)];
    }
  }
}

function take(name, value) {
  if (name === "text") {
    say("Thinking …", "busy");
    drawProcess(value.text);
  } else if (name === "choice") {
    say("");
    drawChoice(value);
  } else if (name === "error") {
    throw new Error(value.error.message);
  }
}

// -- the answer -----------------------------------------------------------------------------------

function drawProcess(text) {
  at("process").hidden = !text;
  at("raw").textContent = text;
  const parts = [];
  for (const line of text.split("\n")) {
    const colon = line.indexOf(":");
    const head = line.slice(0, colon).replace(/[*\-\s]+/g, " ").trim();
    const known = colon > 0 && FIELDS.find((field) => field.toLowerCase() === head.toLowerCase());
    if (known) parts.push([known, line.slice(colon + 1).trim()]);
    else if (/^[\s*-]*(thought|behavior)\W*:/i.test(line)) continue;
    else if (line.trim() && parts.length) parts[parts.length - 1][1] += "\n" + line.trim();
    else if (line.trim()) parts.push(["", line.trim()]);
  }
  at("fields").replaceChildren(...parts.flatMap(([head, said]) => [element("dt", head), element("dd", said)]));
}

function drawChoice(choice) {
  if (choice.thought) drawProcess(choice.thought);
  before = last;
  last = new Map();
  at("verdict").textContent = `Would choose ${choice.label}: ${choice.text}`;
  at("bars").replaceChildren(...choice.probabilities.map((p, place) => {
    const text = asked[place];
    last.set(text, p);
    const row = element("li", undefined, place === choice.behavior ? "chosen" : "");
    const head = element("div", undefined, "head");
    head.append(element("span", choice.labels[place], "label"), element("span", text, "option"));
    const track = element("div", undefined, "track");
    const fill = element("div", undefined, "fill");
    fill.style.width = `${100 * p}%`;
    track.append(fill);
    if (before) {
      const was = before.get(text);
      const change = was === undefined ? "new" : signed(100 * (p - was));
      head.append(element("span", change, "change"));
      if (was !== undefined) {
        const mark = element("div", undefined, "was");
        mark.style.left = `${100 * was}%`;
        mark.title = `before: ${(100 * was).toFixed(1)} %`;
        track.append(mark);
      }
    }
    head.append(element("span", `${(100 * p).toFixed(1)} %`, "share"));
    row.append(head, track);
    return row;
  }));
  at("facts").textContent = facts(choice);
  at("result").hidden = false;
}

function signed(points) {
  return (points < 0 ? "−" : "+") + Math.abs(points).toFixed(1);
}

function facts(choice) {
  const most = Math.log2(choice.probabilities.length);
  const told = [`Entropy ${choice.entropy.toFixed(2)} of at most ${most.toFixed(2)} bits`];
  if (choice.decisions.length > 1) told.push(`mean over ${choice.decisions.length} decision processes`);
  if (choice.temperature) told.push("calibrated");
  if (choice.likely) told.push(`with ${Math.round(100 * choice.coverage)} % among ${choice.likely.map((k) => LABELS[k]).join(", ")}`);
  if (before) told.push("orange: the answer before");
  return told.join(" · ");
}

// -- the beginning --------------------------------------------------------------------------------

async function example() {
  const given = await (await fetch(space ? "page/example.json" : "/page/example.json")).json();
  at("profile").value = given.profile;
  at("history").value = given.history.join("\n");
  at("catalogue").value = given.catalogue.join("\n");
  shown = given.exposure.slice();
  before = last = null;
  at("result").hidden = at("process").hidden = true;
  say(unaddressed() ? "Give the address of a service, then press Ask." : "Press Ask to see what this person would do.");
  drawShown();
}

async function settings() {
  if (space) {
    at("endpoint").value = document.querySelector("meta[name=endpoint]").content;
    at("connection").open = !at("endpoint").value;
    at("docs").remove();
    return;
  }
  model = await (await fetch("/page/settings/model.json")).json();
  at("model").textContent = `${model.name}, ${model.mode === "direct" ? "answers at once" : "writes a decision process first"}`;
  at("guided").checked = model.guided;
  at("connection").hidden = !model.token;
  at("connection").open = model.token;
}

at("ask").addEventListener("click", ask);
at("stop").addEventListener("click", () => running && running.abort());
at("reset").addEventListener("click", example);
at("add").addEventListener("click", () => { shown.push(unshown()[0]); drawShown(); });
at("shuffle").addEventListener("click", others);
at("catalogue").addEventListener("input", fromCatalogue);
settings().then(example).catch(() => say("The page is not whole: reload it.", "bad"));
