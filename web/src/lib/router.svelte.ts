// The page is named by what follows # in the address: #/runs/samples, #/setup/TOKEN.

class Router {
  path = $state(read());

  constructor() {
    addEventListener("hashchange", () => (this.path = read()));
  }

  get parts(): string[] {
    return this.path.split("/").map(decodeURIComponent);
  }

  go(path: string, replace = false): void {
    if (replace) history.replaceState(null, "", `#/${path}`);
    else history.pushState(null, "", `#/${path}`);
    this.path = path;
  }
}

function read(): string {
  return location.hash.replace(/^#\/?/, "").split("?")[0] ?? "";
}

export const router = new Router();
