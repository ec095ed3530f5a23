"use strict";
(() => {
  const form = document.querySelector(".filters");
  const search = form.querySelector("input[type=search]");
  const tag = form.querySelector("select");
  const count = form.querySelector("output");
  const nothing = document.querySelector(".nothing");
  const sections = [...document.querySelectorAll("details[data-group]")].map((element) => ({
    element,
    group: element.dataset.group,
    heads: element.querySelectorAll(".columns, thead"),
    open: element.open,
    rows: [...element.querySelectorAll(".case, tbody tr")].map((row) => ({ row, tags: row.dataset.tags.split(" "), text: null })),
  }));
  const total = sections.reduce((sum, section) => sum + section.rows.length, 0);

  // What a row says is read when it is first searched: at 10,000 rows reading all of them at the start would be felt.
  const says = (entry) => (entry.text ??= entry.row.textContent.toLowerCase());

  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const group = form.elements.group.value;
    const wanted = tag ? tag.value : "";
    const filtered = words.length > 0 || wanted !== "" || group !== "";
    let shown = 0;
    for (const section of sections) {
      let here = 0;
      for (const entry of section.rows) {
        const fits =
          (group === "" || group === section.group) &&
          (wanted === "" || entry.tags.includes(wanted)) &&
          words.every((word) => says(entry).includes(word));
        if (entry.row.hidden === fits) entry.row.hidden = !fits;
        here += fits ? 1 : 0;
      }
      section.element.hidden = here === 0;
      section.element.open = filtered ? here > 0 : section.open;
      shown += here;
    }
    nothing.hidden = shown > 0;
    count.textContent = filtered ? `${shown.toLocaleString("en")} of ${total.toLocaleString("en")} cases` : "";
  };

  let waiting = 0;
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(apply, 80);
  });
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      form.reset();
      apply();
    }
  });
  form.hidden = false;
})();
