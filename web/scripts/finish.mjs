// After the build: what a first visit loads must stay within its limit, and the manifest says what was built from what.
//
// First load: index.html and all that it names, followed through static imports; what pages load later is not in it.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname, join, posix, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, constants } from "node:zlib";

const WEB = resolve(dirname(fileURLToPath(import.meta.url)), "..");
const BUILT = resolve(WEB, "../src/tropism/studio/static");
const LIMIT = 150_000;
const SOURCES = ["index.html", "package.json", "package-lock.json", "public", "scripts", "src", "svelte.config.js", "tsconfig.json", "vite.config.ts"];

/** Files below a place, sorted, as paths with forward slashes relative to `root`. */
function files(root, place) {
  const path = join(root, place);
  if (statSync(path).isFile()) return [place.split("\\").join("/")];
  return readdirSync(path)
    .flatMap((name) => files(root, join(place, name)))
    .sort();
}

const sha256 = (path) => createHash("sha256").update(readFileSync(path)).digest("hex");
const digests = (root, names) => Object.fromEntries(names.map((name) => [name, sha256(join(root, name))]));

/** index.html, its scripts and styles, and what those import statically. */
function firstLoad() {
  const seen = new Set(["index.html"]);
  const html = readFileSync(join(BUILT, "index.html"), "utf8");
  const waiting = [...html.matchAll(/(?:src|href)="\.\/([^"]+)"/g)].map((match) => match[1]);
  while (waiting.length > 0) {
    const name = waiting.pop();
    if (seen.has(name)) continue;
    seen.add(name);
    if (!name.endsWith(".js")) continue;
    const text = readFileSync(join(BUILT, name), "utf8");
    for (const match of text.matchAll(/(?:import|export)\s*(?:[\w*{}\s,$]+?from)?\s*["'](\.[^"']+)["']/g)) {
      waiting.push(posix.join(posix.dirname(name), match[1]));
    }
  }
  return [...seen].sort();
}

const HARDEST = { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } };
const brotli = (path) => brotliCompressSync(readFileSync(path), HARDEST).length;

const first = firstLoad();
const bytes = first.reduce((sum, name) => sum + brotli(join(BUILT, name)), 0);
// packed once here, so that no server has to do it for every visit
for (const name of files(BUILT, ".").filter((name) => /\.(js|css)$/.test(name))) {
  writeFileSync(join(BUILT, `${name}.br`), brotliCompressSync(readFileSync(join(BUILT, name)), HARDEST));
}
const built = files(BUILT, ".").filter((name) => name !== "manifest.json");
const sources = SOURCES.flatMap((name) => files(WEB, name));
const manifest = {
  about: "What the studio's pages were built from (web/) and into; made by `npm run build` in web/.",
  first_load: { files: first, brotli_bytes: bytes, limit_bytes: LIMIT },
  sources: digests(WEB, sources),
  built: digests(BUILT, built),
};
writeFileSync(join(BUILT, "manifest.json"), `${JSON.stringify(manifest, null, 1)}\n`);
console.log(`first load: ${bytes} bytes in ${first.length} files (limit ${LIMIT}); ${relative(process.cwd(), BUILT)}`);
if (bytes > LIMIT) {
  console.error(`error: the first load is ${bytes} bytes, limit ${LIMIT}\n  fix: load a page's part with import() when it is opened`);
  process.exit(1);
}
