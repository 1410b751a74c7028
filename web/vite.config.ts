import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";

// Addresses are relative, so that the studio works below any path of a proxy. Names carry a digest of the content, so
// that equal sources give equal files and browsers may keep them for ever.
export default defineConfig({
  base: "./",
  plugins: [svelte()],
  build: {
    outDir: "../src/tropism/studio/static",
    emptyOutDir: true,
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    target: ["chrome123", "firefox121", "safari17.5"],
    reportCompressedSize: false,
  },
  server: { proxy: { "/api": "http://127.0.0.1:7860" } },
});
