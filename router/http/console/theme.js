// Sets the theme before anything is drawn, so that no page flashes. Knows nothing else.
"use strict";
{
  const kept = localStorage.getItem("shoal-theme");
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
}
