// Builds everything that ships: `node build.mjs [folder]`, by default into dist/.
//
//   mainstem.js (+ .gz, .br)   the script that the gateway serves at /sdk/mainstem.js
//   browser.mjs                for bundlers: pages and service workers
//   node.mjs, node.cjs         for Node
//   snippet.mjs                the text of the script-tag snippet
//   types/                     declarations
//
// Without a folder the script is also written into the server's package, where it is committed. Names that
// begin with `_` are private, those of INTERNAL meet within the bundle only: they are shortened.
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

const here = dirname(fileURLToPath(import.meta.url));
const out = resolve(process.argv[2] ?? join(here, "dist"));
const served = join(here, "..", "..", "src", "mainstem", "gateway", "sdk");
// From the working directory: a test installs the packages elsewhere and runs this file from there.
const require = createRequire(join(process.cwd(), "package.json"));
const { buildSync } = require("esbuild");
const { version } = JSON.parse(readFileSync(join(here, "package.json"), "utf8"));

// Of the interfaces between the modules; none may be a name of the DOM, of Node, of an option or of an event.
const INTERNAL = [
  "beacon", "beaconUrl", "changed", "channel", "deliver", "drop", "exclusively", "gzipFromBytes", "hide", "keptAliveBytes", "leave",
  "listen", "purge", "recall", "release", "remember", "seq", "setAside", "shared", "stores", "writer", "yield",
];

const common = {
  absWorkingDir: here,
  bundle: true,
  minify: true,
  mangleProps: new RegExp(`^(_[a-zA-Z].*|${INTERNAL.join("|")})$`),
  mangleQuoted: false,
  legalComments: "none",
  charset: "utf8",
  logLevel: "warning",
  define: { VERSION: JSON.stringify(version) },
};
const banner = { js: `/*! Mainstem ${version} | Apache-2.0 */` };

mkdirSync(out, { recursive: true });
buildSync({ ...common, banner, entryPoints: ["src/script.ts"], outfile: join(out, "mainstem.js"), format: "iife", target: "es2021" });
buildSync({ ...common, banner, entryPoints: ["src/browser.ts"], outfile: join(out, "browser.mjs"), format: "esm", target: "es2021" });
buildSync({ ...common, entryPoints: ["src/snippet.ts"], outfile: join(out, "snippet.mjs"), format: "esm", target: "es2021" });
for (const [file, format] of [["node.mjs", "esm"], ["node.cjs", "cjs"]]) {
  buildSync({
    ...common, banner, entryPoints: ["src/node.ts"], outfile: join(out, file), format,
    platform: "node", target: "node20",
  });
}
const tsc = join(dirname(require.resolve("typescript/package.json")), "bin", "tsc");
const types = join(dirname(dirname(require.resolve("@types/node/package.json"))));
execFileSync(
  process.execPath,
  [tsc, "-p", join(here, "tsconfig.json"), "--typeRoots", types,
    "--declaration", "--emitDeclarationOnly", "--outDir", join(out, "types")],
  { stdio: "inherit" },
);

const script = readFileSync(join(out, "mainstem.js"));
const packed = {
  "mainstem.js": script,
  "mainstem.js.gz": gzipSync(script, { level: 9 }),
  "mainstem.js.br": brotliCompressSync(script, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } }),
};
const folders = process.argv[2] ? [out] : [out, served];
for (const folder of folders) {
  mkdirSync(folder, { recursive: true });
  for (const [name, bytes] of Object.entries(packed)) writeFileSync(join(folder, name), bytes);
}
for (const [name, bytes] of Object.entries(packed)) console.log(`${name} ${bytes.length} bytes`);
