/** The snippet for a page's head: a stub that queues calls until the script is there. */

/** The methods that it names are those of `analytics.ts` that can wait. */
const STUB = `!function(w,d,n,h){var a=w[n]=w[n]||[];if(a.load)return;\
"identify track page screen group alias reset setAnonymousId use setConsent flush resume ready".split(" ").forEach(\
function(m){a[m]=function(){var c=[m].concat([].slice.call(arguments));c.t=+new Date;a.push(c);return a}});\
a.load=function(k,o){a._writeKey=k;a._loadOptions=o||{};var s=d.createElement("script");s.async=!0;\
s.src=h+"/sdk/mainstem.js";s.dataset.name=n;d.head.appendChild(s)}}`;

/**
 * @param host where the Mainstem is, `https://events.example.com`
 * @param name of the global variable
 */
export function snippet(writeKey: string, host: string, options: object = {}, name = "analytics"): string {
  const text = (value: unknown): string => JSON.stringify(value).replace(/</g, "\\u003c");
  const origin = host.replace(/\/+$/, "");
  return (
    `<script>${STUB}(window,document,${text(name)},${text(origin)});` +
    `${name}.load(${text(writeKey)},${text(options)});${name}.page();</script>`
  );
}
