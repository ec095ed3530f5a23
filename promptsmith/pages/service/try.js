"use strict";
(() => {
  const form = document.querySelector("form.try");
  const send = form.querySelector("button[type=submit]");
  const stop = form.querySelector("button.stop");
  const said = document.querySelector(".answer");
  const [text, why, facts, state] = ["pre", ".why", ".facts", ".state"].map((name) => said.querySelector(name));
  let asked = null;

  const clear = () => {
    text.textContent = "";
    why.textContent = "";
    facts.replaceChildren();
    said.classList.remove("good", "bad");
  };

  const end = (words, kind) => {
    state.textContent = words;
    if (kind) said.classList.add(kind);
    if (kind === "bad") facts.replaceChildren();
  };

  const tell = (rows) => {
    for (const [name, words] of rows) {
      const term = document.createElement("dt");
      const told = document.createElement("dd");
      term.textContent = name;
      told.textContent = words;
      facts.append(term, told);
    }
  };

  // One line of the answer. True: it was the last.
  const take = (line) => {
    if (line.text !== undefined) {
      text.append(line.text);
      return false;
    }
    if (line.error !== undefined) {
      why.textContent = line.error;
      end("failed", "bad");
    } else {
      tell(line.facts);
      why.textContent = line.why;
      said.classList.add(line.why ? "bad" : "good");
      state.textContent = "complete";
    }
    return true;
  };

  const read = async (body) => {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return false;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (take(JSON.parse(line))) return true;
    }
  };

  const ask = async () => {
    const answer = await fetch(form.action, {
      method: "POST",
      headers: { accept: "application/x-ndjson" },
      body: new URLSearchParams(new FormData(form)),
      signal: asked.signal,
      redirect: "error",
    });
    if (!(answer.headers.get("content-type") ?? "").startsWith("application/x-ndjson")) {
      throw new Error(`the server answered ${answer.status}; load the page again`);
    }
    if (!(await read(answer.body))) throw new Error("the answer broke off");
  };

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (asked) return;
    asked = new AbortController();
    clear();
    said.hidden = false;
    said.setAttribute("aria-busy", "true");
    send.setAttribute("aria-disabled", "true");
    stop.hidden = false;
    state.textContent = "answering";
    try {
      await ask();
    } catch (error) {
      if (asked.signal.aborted) end("stopped", "");
      else {
        why.textContent = error.message;
        end("failed", "bad");
      }
    }
    if (document.activeElement === stop) send.focus();
    stop.hidden = true;
    send.removeAttribute("aria-disabled");
    said.removeAttribute("aria-busy");
    asked = null;
  });
  stop.addEventListener("click", () => asked && asked.abort());
})();
