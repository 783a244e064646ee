"use strict";

const $ = (id) => document.getElementById(id);
let codes = [];       // of the sentence that is shown: {code, text, writesOften}
let changed = false;  // whether they are the user's
let request = 0;      // the last one counts

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

async function post(path, values) {
  const [source, target] = $("pair").value.split(" ");
  const body = { q: $("source").value, source, target, api_key: $("key").value, ...values };
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

/* One colour for each code number, wherever it stands; neighbours in hue differ in strength. */
function colour(element, code) {
  const hue = Math.round((code * 137.508) % 360);
  element.style.background = `hsl(${hue} ${code % 2 ? 75 : 30}% var(--light))`;
  element.style.color = `hsl(${hue} 45% var(--ink))`;
}

function visible(text) {
  return text.trim() || "nothing";
}

function show(found) {
  codes = found.codes;
  $("translation").value = found.translatedText;
  $("latency").textContent = `${found.milliseconds} ms`;
  $("score").textContent = codes.length ? `· score ${found.score}` : "";
  $("codes-hint").hidden = !codes.length;
  $("codes").replaceChildren(...codes.map((one, position) => {
    const chip = make("button", { type: "button", className: "chip" },
      make("span", { className: "words", textContent: visible(one.text) }),
      make("span", { className: "code", textContent: one.code }));
    chip.setAttribute("aria-expanded", "false");
    chip.setAttribute("aria-controls", "panel");
    chip.setAttribute("aria-label", `Code ${one.code} writes ${visible(one.text)}`);
    chip.addEventListener("click", () => open(position));
    colour(chip, one.code);
    return make("li", {}, chip);
  }));
  if (!codes.length && found.translatedText) {
    $("codes").replaceChildren(make("li", { textContent: "This translation has no codes." }));
  }
  $("reset").hidden = !changed;
  $("panel").hidden = true;
}

/* Run a task; only the last one that was begun may show what it found. */
async function latest(task) {
  const mine = ++request;
  try {
    const found = await task();
    if (mine !== request) return;
    $("error").textContent = "";
    found();
  } catch (error) {
    if (mine === request) $("error").textContent = error.message;
  }
}

function translate() {
  changed = false;
  if (!$("source").value.trim()) {
    request++;
    $("others-section").hidden = true;
    return show({ codes: [], translatedText: "", milliseconds: 0 });
  }
  return latest(async () => {
    const found = await post("codes", { alternatives: 4 });
    return () => {
      show(found);
      const others = found.sentences.filter((one) => one.text !== found.translatedText);
      $("others").replaceChildren(...others.map((one) => make("li", {}, one.text, " ",
        make("span", { className: "whole", textContent: one.score }))));
      $("others-section").hidden = !others.length;
    };
  });
}

function open(position) {
  const numbers = codes.map((one) => one.code);
  const complete = $("again").checked;
  return latest(async () => {
    const found = await post("codes/alternatives", { codes: numbers, position, complete });
    return () => {
      [...$("codes").querySelectorAll(".chip")].forEach((chip, i) =>
        chip.setAttribute("aria-expanded", String(i === position)));
      $("panel-title").textContent = `Instead of code ${numbers[position]}:`;
      $("alternatives").replaceChildren(...found.map((one) => {
        const percent = `${(100 * one.probability).toFixed(1)} %`;
        const label = make("span", { textContent: `code ${one.code}` });
        const button = make("button", { type: "button" }, label,
          make("span", { textContent: percent }),
          make("meter", { min: 0, max: 1, value: one.probability, ariaLabel: percent }),
          make("span", { className: "whole", textContent: one.translatedText }));
        if (one.code === numbers[position]) button.setAttribute("aria-current", "true");
        button.addEventListener("click", () => choose(position, one.code));
        return make("li", {}, button);
      }));
      showOften(codes[position]);
      $("panel").hidden = false;
      $("alternatives").querySelector("button")?.focus();
    };
  });
}

/* Words of the training text that a code writes; where it begins within a word, dots come first. */
function showOften({ code, writesOften = [] }) {
  $("often-title").textContent = `In the training text code ${code} often writes:`;
  $("often").replaceChildren(...writesOften.map((one) => {
    const text = one.text.startsWith(" ") ? one.text.trim() : `…${one.text}`;
    return make("li", {}, text, make("span", { className: "whole", textContent: ` ${one.count}×` }));
  }));
  $("often-section").hidden = !writesOften.length;
}

function choose(position, code) {
  const numbers = codes.map((one) => one.code);
  numbers[position] = code;
  const complete = $("again").checked;
  const given = complete ? numbers.slice(0, position + 1) : numbers;
  return latest(async () => {
    const found = await post("codes", { codes: given, complete });
    return () => {
      changed = true;
      show(found);
      $("codes").querySelectorAll(".chip")[position]?.focus();
    };
  });
}

async function start() {
  const settings = await (await fetch("frontend/settings")).json();
  $("key-label").hidden = !settings.keyRequired;
  const languages = await (await fetch("languages")).json();
  const names = Object.fromEntries(languages.map((one) => [one.code, one.name]));
  $("pair").replaceChildren(...languages.flatMap((one) => one.targets
    .filter((target) => target !== one.code)
    .map((target) => make("option", {
      value: `${one.code} ${target}`,
      textContent: `${one.name} to ${names[target]}`,
    }))));
  let timer = 0;
  $("source").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(translate, 200);
  });
  $("pair").addEventListener("change", translate);
  $("key").addEventListener("change", translate);
  $("reset").addEventListener("click", translate);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !$("panel").hidden) {
      $("panel").hidden = true;
      const chip = $("codes").querySelector("[aria-expanded=true]");
      chip?.setAttribute("aria-expanded", "false");
      chip?.focus();
    }
  });
  await translate();
}

start().catch((error) => { $("error").textContent = error.message; });
