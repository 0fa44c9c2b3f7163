"use strict";
// The filter of the matrix. Without this script the page lacks the filter, and nothing else.
(function () {
  var form = document.getElementById("filters");
  if (!form) return;
  var words = document.getElementById("filter");
  var only = document.getElementById("only");
  var shown = document.getElementById("shown");
  var rows = Array.from(document.querySelectorAll(".matrix tbody tr"));

  function apply() {
    var all = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    var count = 0;
    rows.forEach(function (row) {
      var fits = all.every(function (w) { return row.dataset.text.includes(w); });
      row.hidden = !fits || (only.checked && row.dataset.bad === undefined);
      if (!row.hidden) count++;
    });
    shown.textContent = count + " of " + rows.length + " shown";
  }

  // A link to a row that is filtered out shows it.
  function reveal() {
    var row = document.getElementById(location.hash.slice(1));
    if (!row || !row.hidden) return;
    words.value = "";
    only.checked = false;
    apply();
    row.scrollIntoView();
  }

  form.hidden = false;
  form.addEventListener("submit", function (e) { e.preventDefault(); });
  words.addEventListener("input", apply);
  only.addEventListener("change", apply);
  window.addEventListener("hashchange", reveal);
  apply();
})();
