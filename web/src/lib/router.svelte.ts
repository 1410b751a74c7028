// The page is named by what follows # in the address: #/runs/samples, #/setup/TOKEN.

class Router {
  path = $state(read());

  constructor() {
    addEventListener("hashchange", () => (this.path = read()));
  }

  get parts(): string[] {
    return this.path.split("/").map(decoded);
  }

  go(path: string, replace = false): void {
    if (replace) history.replaceState(null, "", `#/${path}`);
    else history.pushState(null, "", `#/${path}`);
    this.path = path;
  }
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // a stray % in an address that somebody typed
  }
}

function read(): string {
  return location.hash.replace(/^#\/?/, "").split("?")[0] ?? "";
}

export const router = new Router();
