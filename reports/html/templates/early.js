// Runs before anything is painted: scripts are on, and the reader's theme of last time.
(() => {
  const page = document.documentElement;
  page.classList.add("scripted");
  try {
    const theme = localStorage.getItem("gatebench-theme");
    if (theme === "dark" || theme === "light") page.dataset.theme = theme;
  } catch { /* pages from disk may have no storage */ }
})();
