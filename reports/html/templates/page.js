// Copying and the theme. Without it the page is whole, only still.
(() => {
  const page = document.documentElement;

  const dark = () => page.dataset.theme ? page.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  for (const button of document.querySelectorAll("[data-theme-toggle]")) {
    button.addEventListener("click", () => {
      page.dataset.theme = dark() ? "light" : "dark";
      try { localStorage.setItem("gatebench-theme", page.dataset.theme); } catch { /* as in early.js */ }
      document.dispatchEvent(new Event("gatebench-theme"));
    });
  }

  for (const button of document.querySelectorAll("[data-copy]")) {
    const code = button.parentElement.querySelector("code");
    button.addEventListener("click", async () => {
      let done = false;
      try {
        await navigator.clipboard.writeText(code.textContent);
        done = true;
      } catch {
        getSelection().selectAllChildren(code);
        done = document.execCommand("copy");
      }
      button.textContent = done ? "Copied" : "Selected";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }
})();
