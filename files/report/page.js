"use strict";
// The page is complete without this: it folds, finds and sorts, nothing else.
(function () {
  var nodes = Array.prototype.slice.call(document.querySelectorAll("details.node"));
  var form = document.querySelector("form.filter");

  function show(anchor) {
    var target = anchor && document.getElementById(anchor);
    if (target && target.tagName === "DETAILS") { target.open = true; target.scrollIntoView(); }
  }
  window.addEventListener("hashchange", function () { show(decodeURIComponent(location.hash.slice(1))); });
  document.addEventListener("click", function (event) {
    var link = event.target.closest && event.target.closest("a[href^='#']");
    if (link) { show(decodeURIComponent(link.getAttribute("href").slice(1))); }
  });
  show(decodeURIComponent(location.hash.slice(1)));

  // Browsers that cannot unfold by style alone (details-content) do it here.
  window.addEventListener("beforeprint", function () {
    document.querySelectorAll("details:not([open])").forEach(function (d) { d.open = true; d.dataset.shut = "1"; });
  });
  window.addEventListener("afterprint", function () {
    document.querySelectorAll("details[data-shut]").forEach(function (d) { d.open = false; delete d.dataset.shut; });
  });

  if (form) {
    form.hidden = false;
    var find = form.querySelector("input[type=search]"), only = form.querySelector("input[type=checkbox]");
    var rows = nodes.concat(Array.prototype.slice.call(document.querySelectorAll("table.fleet tbody tr")));
    var filter = function () {
      var wanted = find.value.trim().toLowerCase();
      rows.forEach(function (row) {
        var quiet = only.checked && row.dataset.verdict === "ok";
        row.hidden = quiet || row.dataset.host.toLowerCase().indexOf(wanted) < 0;
      });
    };
    form.addEventListener("input", filter);
    form.addEventListener("submit", function (event) { event.preventDefault(); });
    form.addEventListener("click", function (event) {
      var fold = event.target.dataset && event.target.dataset.fold;
      if (fold) { nodes.forEach(function (n) { if (!n.hidden) { n.open = fold === "open"; } }); }
    });
    filter();
  }

  document.querySelectorAll("table[data-sort]").forEach(function (table) {
    var heads = table.tHead.rows[0].cells;
    Array.prototype.forEach.call(heads, function (head, column) {
      head.tabIndex = 0;
      head.classList.add("sortable");
      function sort() {
        var down = head.getAttribute("aria-sort") !== "descending";
        Array.prototype.forEach.call(heads, function (h) { h.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        var value = function (row) {
          var cell = row.cells[column], text = cell.dataset.v || cell.textContent.trim();
          var number = parseFloat(text.replace(/\u202f/g, ""));
          return isNaN(number) || !/^[\d.+-]/.test(text) ? text.toLowerCase() : number;
        };
        var rows = Array.prototype.slice.call(table.tBodies[0].rows).map(function (r) { return [value(r), r]; });
        rows.sort(function (a, b) {
          if (typeof a[0] !== typeof b[0]) { return typeof a[0] === "number" ? -1 : 1; }
          return (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0) * (down ? -1 : 1);
        });
        rows.forEach(function (r) { table.tBodies[0].appendChild(r[1]); });
      }
      head.addEventListener("click", sort);
      head.addEventListener("keydown", function (event) { if (event.key === "Enter") { sort(); } });
    });
  });

  // Pointing at a GPU's row brings its curves forward.
  document.querySelectorAll("table.soak tbody tr").forEach(function (row) {
    var section = row.closest("section");
    function mark(on) {
      section.querySelectorAll("path[data-gpu='" + row.dataset.gpu + "']").forEach(function (path) {
        path.classList.toggle("on", on);
      });
    }
    row.addEventListener("mouseenter", function () { mark(true); });
    row.addEventListener("mouseleave", function () { mark(false); });
  });
})();
