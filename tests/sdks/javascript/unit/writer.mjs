// A process that tracks TOTAL events, forty a task, and after each task prints the number of its last event.
import { Analytics, quick, track } from "./kit.mjs";

const { DIRECTORY, HOST, TOTAL, DIE } = process.env;
const { options } = quick(HOST, {
  directory: DIRECTORY,
  retryBaseMs: 60_000,
  onReport: (report) => {
    if (report.type === DIE) process.kill(process.pid, "SIGKILL");
  },
});
const analytics = new Analytics(options);
let n = 0;
function step() {
  for (let at = 0; at < 40 && n < Number(TOTAL); at++) track(analytics, n++);
  // The next task: what this one gathered is in the store's hands.
  setImmediate(() => {
    console.log(n - 1);
    if (n < Number(TOTAL)) setImmediate(step);
  });
}
step();
setInterval(() => {}, 1_000);
