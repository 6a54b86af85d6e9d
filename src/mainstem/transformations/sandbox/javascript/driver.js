// What surrounds the user's code inside V8: it takes batches in, calls the code, keeps events apart, puts builtins back.
//
// Evaluated once per process by host.py, before any user code, as a function of `config`. Returns
// `[load, run, poll, answer, takeLogs, progress]`, which only host.py holds. No Python function is ever reachable from here: what
// the code asks of the world is queued, and host.py collects it with `poll`.
//
// The user's code may overwrite every builtin during a batch. Therefore the driver uses only what it captured
// before (and own, existing elements of arrays), and before each batch `restore` puts all builtins back.
(config) => {
  "use strict";

  // ---- what the driver itself uses, captured before the user's code can touch it ----
  const global = globalThis;
  const { call, bind } = Function.prototype;
  const uncurry = bind.bind(call);
  const { parse, stringify } = JSON;
  const {
    construct, ownKeys, getOwnPropertyDescriptor, defineProperty, deleteProperty,
    getPrototypeOf, setPrototypeOf, isExtensible,
  } = Reflect;
  const { freeze, create } = Object;
  const { isArray } = Array;
  const NativeFunction = Function;
  const NativeError = Error;
  const NativeTypeError = TypeError;
  const NativePromise = Promise;
  const NativeDate = Date;
  const NativeMap = Map;
  const NativeString = String;
  const mapGet = uncurry(Map.prototype.get);
  const mapSet = uncurry(Map.prototype.set);
  const mapDelete = uncurry(Map.prototype.delete);
  const mapHas = uncurry(Map.prototype.has);
  const startsWith = uncurry(String.prototype.startsWith);
  const slice = uncurry(String.prototype.slice);
  const includes = uncurry(String.prototype.includes);
  const charCodeAt = uncurry(String.prototype.charCodeAt);
  const charAt = uncurry(String.prototype.charAt);
  const toUpperCase = uncurry(String.prototype.toUpperCase);
  const indexOf = uncurry(String.prototype.indexOf);
  const exec = uncurry(RegExp.prototype.exec);
  const { imul, floor } = Math;
  const { fromCharCode } = String;

  // ---- what the code does not get: shared memory, second compilers, timers, views on the collector and real time ----
  for (const name of [
    "WebAssembly", "SharedArrayBuffer", "Atomics", "FinalizationRegistry", "WeakRef", "Temporal",
    "__timer_manager", "setTimeout", "clearTimeout", "console", "argv",
  ]) {
    // `var` at the top makes what can't be deleted: then it is undefined for ever.
    if (!deleteProperty(global, name) && name in global) {
      global[name] = undefined;
    }
  }

  // Like push, which the code may have replaced.
  const append = (list, value) =>
    defineProperty(list, list.length, { __proto__: null, value, writable: true, enumerable: true, configurable: true });
  const hide = (target, name, value) =>
    defineProperty(target, name, { __proto__: null, value, writable: true, enumerable: false, configurable: true });

  // ---- the state of the batch that runs ----
  const progress = new Uint32Array(1); // the position of the event that runs, plus one; 0: not known. Read by host.py
  let seeds = [];
  let nows = [];
  let now = 0;
  let seed = "";
  let random = null;
  let messages = [];
  let messagesText = "";
  let metadataText = "";
  let metas = null;
  let ids = [];
  let positions = null;
  let sawDestination = false;
  let keepLogs = false;
  let logs = [];
  let logBytes = 0;
  let results = [];
  let generation = 0;
  let done = true;
  let asks = [];
  let waiting = new NativeMap();
  let outstanding = 0;
  let lastAsk = 0;

  const enter = (index) => {
    progress[0] = index + 1;
    seed = seeds[index];
    now = nows[index];
    random = null;
  };

  // ---- chance and time, from the event ----
  const generator = (text) => {
    // cyrb128 into sfc32: small, public domain, good enough for sampling; not for secrets.
    let a = 1779033703, b = 3144134277, c = 1013904242, d = 2773480762;
    for (let at = 0; at < text.length; at++) {
      const code = charCodeAt(text, at);
      a = b ^ imul(a ^ code, 597399067);
      b = c ^ imul(b ^ code, 2869860233);
      c = d ^ imul(c ^ code, 951274213);
      d = a ^ imul(d ^ code, 2716044179);
    }
    const next = () => {
      const sum = (((a + b) | 0) + d) | 0;
      d = (d + 1) | 0;
      a = b ^ (b >>> 9);
      b = (c + (c << 3)) | 0;
      c = ((c << 21) | (c >>> 11)) + sum | 0;
      return sum >>> 0;
    };
    for (let round = 0; round < 12; round++) next();
    return () => (next() * 2097152 + (next() >>> 11)) / 9007199254740992;
  };

  if (config.seeded) {
    hide(Math, "random", { random() { random ??= generator(seed); return random(); } }.random);
    const SeededDate = function Date(...given) {
      if (!new.target) return new NativeDate(now).toString();
      return construct(NativeDate, given.length ? given : [now], new.target);
    };
    for (const name of ["parse", "UTC"]) hide(SeededDate, name, NativeDate[name]);
    hide(SeededDate, "now", { now() { return now; } }.now);
    defineProperty(SeededDate, "length", { value: 7, configurable: true });
    defineProperty(SeededDate, "prototype", { value: NativeDate.prototype, writable: false });
    hide(NativeDate.prototype, "constructor", SeededDate);
    hide(global, "Date", SeededDate);
    const { DateTimeFormat } = Intl;
    const format = uncurry(getOwnPropertyDescriptor(DateTimeFormat.prototype, "format").get);
    defineProperty(DateTimeFormat.prototype, "format", {
      get() { const given = format(this); return (date) => given(date === undefined ? now : date); },
    });
    const formatToParts = uncurry(DateTimeFormat.prototype.formatToParts);
    hide(DateTimeFormat.prototype, "formatToParts", {
      formatToParts(date) { return formatToParts(this, date === undefined ? now : date); },
    }.formatToParts);
  }

  // ---- what the code gets ----
  // A field that tells when it is read. Made once for a value: a batch has the same for all its events.
  const watchedLast = create(null);
  const watched = (key, value) => {
    const last = watchedLast[key];
    if (last !== undefined && last.value === value) return last.property;
    const property = {
      __proto__: null,
      enumerable: true,
      configurable: true,
      get() { sawDestination = true; return value; },
      set(other) {
        defineProperty(this, key, { __proto__: null, value: other, writable: true, enumerable: true, configurable: true });
      },
    };
    watchedLast[key] = { __proto__: null, value, property };
    return property;
  };

  const metadata = (event) => {
    if (positions === null) {
      positions = new NativeMap();
      for (let index = ids.length - 1; index >= 0; index--) mapSet(positions, ids[index], index);
    }
    const index = event === null || event === undefined ? undefined : mapGet(positions, event.messageId);
    if (index === undefined) return {};
    if (metas === null) metas = parse(metadataText);
    const meta = metas[index];
    const keys = ownKeys(meta);
    for (let at = 0; at < keys.length; at++) {
      const key = keys[at];
      if (!startsWith(key, "destination")) continue;
      const property = getOwnPropertyDescriptor(meta, key);
      if (property.get) break; // asked for before
      defineProperty(meta, key, watched(key, property.value));
    }
    return meta;
  };

  if (config.codeVersion === "0") hide(global, "metadata", metadata);

  const shown = (value) => {
    if (typeof value !== "object" || value === null) return NativeString(value);
    return stringify(value) ?? NativeString(value);
  };

  const log = (...values) => {
    if (!keepLogs || logBytes >= config.maxLogBytes) return;
    let line = "";
    for (let at = 0; at < values.length; at++) line += (at ? " " : "") + shown(values[at]);
    line = slice(line, 0, config.maxLogBytes - logBytes);
    logBytes += line.length + 1;
    append(logs, line);
  };
  hide(global, "log", log);
  const sink = {};
  for (const name of ["log", "info", "warn", "error", "debug"]) sink[name] = (...values) => log(...values);
  hide(global, "console", sink);

  const askParent = (what, argument) =>
    new NativePromise((resolve, reject) => {
      const id = ++lastAsk;
      mapSet(waiting, id, { __proto__: null, resolve, reject });
      outstanding++;
      append(asks, [id, what, argument]);
    });

  const request = (url, options) => {
    const given = options ?? {};
    const headers = create(null);
    if (given.headers !== undefined && given.headers !== null) {
      for (const name of ownKeys(given.headers)) {
        if (typeof name === "string") headers[name] = NativeString(given.headers[name]);
      }
    }
    const { body } = given;
    return {
      __proto__: null,
      url: NativeString(url),
      method: toUpperCase(NativeString(given.method ?? "GET")),
      headers,
      body: body === undefined || body === null ? null : typeof body === "string" ? body : stringify(body),
    };
  };
  const send = async (url, options) => {
    if (!config.fetch) throw new NativeError("fetch is not allowed: the transformation names no hosts (allow_hosts)");
    return askParent("fetch", request(url, options));
  };
  const parsed = (text) => {
    try { return parse(text); } catch { return text; }
  };

  const fetchV2 = async (url, options) => {
    const response = await send(url, options);
    return { url: response.url, status: response.status, headers: response.headers, body: parsed(response.body) };
  };
  const fetch = async (url, options) => {
    try {
      return parse((await send(url, options)).body);
    } catch {
      return "ERROR";
    }
  };
  // The shape that Segment's functions expect: node-fetch's.
  const fetchResponse = async (url, options) => {
    const { url: at, status, headers, body } = await send(url, options);
    const lowered = create(null);
    for (const name of ownKeys(headers)) lowered[name.toLowerCase()] = headers[name];
    return {
      url: at,
      status,
      ok: status >= 200 && status < 300,
      headers: { get: (name) => lowered[NativeString(name).toLowerCase()] ?? null },
      text: async () => body,
      json: async () => parse(body),
    };
  };
  let segment = false; // the code has Segment's shape
  hide(global, "fetch", (url, options) => (segment ? fetchResponse(url, options) : fetch(url, options)));
  hide(global, "fetchV2", fetchV2);
  hide(global, "geolocation", {
    async geolocation(ip) {
      if (!config.geolocation) throw new NativeError("geolocation is not enabled for this transformation");
      if (typeof ip !== "string" || ip === "") throw new NativeError("ip address is required and must be a text");
      return askParent("geolocation", ip);
    },
  }.geolocation);

  if (config.codeVersion !== "0") {
    hide(global, "getCredential", {
      getCredential(key) {
        if (key === undefined || key === null) throw new NativeTypeError("Key should be valid and defined");
        return getOwnPropertyDescriptor(config.credentials, key)?.value;
      },
    }.getCredential);
  }

  const base64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  hide(global, "btoa", {
    btoa(given) {
      const text = NativeString(given);
      let out = "";
      for (let at = 0; at < text.length; at += 3) {
        const left = text.length - at;
        const a = charCodeAt(text, at);
        const b = left > 1 ? charCodeAt(text, at + 1) : 0;
        const c = left > 2 ? charCodeAt(text, at + 2) : 0;
        if (a > 255 || b > 255 || c > 255) throw new NativeTypeError("btoa takes characters of one byte only");
        const bits = (a << 16) | (b << 8) | c;
        out += base64[bits >> 18] + base64[(bits >> 12) & 63];
        out += left > 1 ? base64[(bits >> 6) & 63] : "=";
        out += left > 2 ? base64[bits & 63] : "=";
      }
      return out;
    },
  }.btoa);
  hide(global, "atob", {
    atob(given) {
      const text = replaceAll(/[\t\n\f\r ]|={1,2}[\t\n\f\r ]*$/g, NativeString(given), () => "");
      let out = "";
      let bits = 0;
      let held = 0;
      for (let at = 0; at < text.length; at++) {
        const value = indexOf(base64, charAt(text, at));
        if (value < 0) throw new NativeTypeError("atob takes base64 only");
        bits = ((bits << 6) | value) & 0xffffff;
        held += 6;
        if (held >= 8) {
          held -= 8;
          out += fromCharCode((bits >> held) & 255);
        }
      }
      return out;
    },
  }.atob);

  // Segment's errors: the first two mean "not for this destination".
  const dropping = [];
  for (const name of [
    "EventNotSupported", "DropEvent", "InvalidEventPayload", "ValidationError", "RetryError",
  ]) {
    const Thrown = class extends NativeError {
      constructor(message) {
        super(message);
        hide(this, "name", name);
      }
    };
    defineProperty(Thrown, "name", { value: name });
    hide(global, name, Thrown);
    if (name === "EventNotSupported" || name === "DropEvent") dropping.push(Thrown);
  }
  const [EventNotSupported] = dropping;
  const dropped = (error) => {
    if (typeof error !== "object" || error === null) return false;
    const kind = getPrototypeOf(error);
    return kind === dropping[0].prototype || kind === dropping[1].prototype;
  };

  // ---- builtins are put back before every batch ----
  // Those that code extends or patches in earnest (polyfills) are compared with what they were. Their properties can be
  // assigned to but not be redefined, so that a look at the value is enough. All others are frozen for good. Where V8
  // is faster as long as nobody ever touched a property (iteration, promises, expressions), it is left as it is and
  // compared in full.
  const guarded = [];
  const snapshot = () => {
    const compared = new NativeMap();
    const errors = [
      AggregateError, Error, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError, ...dropping,
      InvalidEventPayload, ValidationError, RetryError,
    ];
    const kinds = [
      Object, Function, Array, String, Number, Boolean, Symbol, Date, Promise, RegExp, Map, Set, WeakMap, WeakSet,
      ...errors,
    ];
    for (const kind of kinds) {
      mapSet(compared, kind, true);
      mapSet(compared, kind.prototype, true);
    }
    for (const object of [global, Math, JSON, console]) mapSet(compared, object, true);
    const touchy = new NativeMap();
    for (const name of [
      "constructor", "then", "next", "resolve", "exec", "flags", "toString", "valueOf", "length", "lastIndex",
    ]) {
      mapSet(touchy, name, true);
    }

    const seen = new NativeMap();
    const queue = [
      Object.prototype, global,
      getPrototypeOf(function* () {}), getPrototypeOf(async function () {}), getPrototypeOf(async function* () {}),
      getPrototypeOf([][Symbol.iterator]()), getPrototypeOf(new Map()[Symbol.iterator]()),
      getPrototypeOf(new Set()[Symbol.iterator]()), getPrototypeOf(""[Symbol.iterator]()),
      getPrototypeOf("".matchAll(/x/g)), getPrototypeOf(new Intl.Segmenter().segment("")),
      getPrototypeOf(new Intl.Segmenter().segment("")[Symbol.iterator]()),
      getPrototypeOf(Iterator.from({ next() {} })), getPrototypeOf([].values().map((x) => x)),
    ];
    const rest = [];
    while (queue.length) {
      const object = queue.shift();
      if ((typeof object !== "object" && typeof object !== "function") || object === null) continue;
      if (mapHas(seen, object)) continue;
      mapSet(seen, object, true);
      const values = [];
      const whole = [];
      const keys = ownKeys(object);
      const ours = mapHas(compared, object);
      for (const key of keys) {
        const property = getOwnPropertyDescriptor(object, key);
        setPrototypeOf(property, null);
        queue.push(property.value, property.get, property.set);
        if (!ours || (!property.configurable && !property.writable)) continue;
        if (typeof key === "symbol" || mapHas(touchy, key)) {
          whole.push({ __proto__: null, key, property });
          continue;
        }
        if (property.configurable) defineProperty(object, key, { __proto__: null, configurable: false });
        if ("value" in property) values.push({ __proto__: null, key, value: property.value });
      }
      const prototype = getPrototypeOf(object);
      queue.push(prototype);
      if (ours) guarded.push({ __proto__: null, object, prototype, keys, values, whole });
      else rest.push(object);
    }
    for (const object of rest) freeze(object);
  };

  const same = (a, b) =>
    a !== undefined && a.value === b.value && a.get === b.get && a.set === b.set && a.writable === b.writable &&
    a.enumerable === b.enumerable && a.configurable === b.configurable;

  // False: something can't be put back, and this process must not run another batch. No iterator protocol in here, and
  // nothing read from objects but their own properties: this runs while builtins may be the code's.
  const restore = () => {
    for (let at = 0; at < guarded.length; at++) {
      const { object, prototype, keys, values, whole } = guarded[at];
      for (let known = 0; known < values.length; known++) {
        const { key, value } = values[known];
        if (object[key] !== value && !defineProperty(object, key, { __proto__: null, value })) return false;
      }
      let missing = false;
      for (let known = 0; known < whole.length; known++) {
        const { key, property } = whole[known];
        const found = getOwnPropertyDescriptor(object, key);
        if (found === undefined) missing = true;
        if (!same(found, property) && !defineProperty(object, key, property)) return false;
      }
      const there = ownKeys(object);
      if (missing || there.length !== keys.length) {
        for (let extra = 0; extra < there.length; extra++) {
          let ours = false;
          for (let known = 0; known < keys.length; known++) if (keys[known] === there[extra]) ours = true;
          if (!ours && !deleteProperty(object, there[extra])) return false;
        }
      }
      if (getPrototypeOf(object) !== prototype && !setPrototypeOf(object, prototype)) return false;
      if (!isExtensible(object)) return false;
    }
    return true;
  };

  // Like String.replace with a global expression, but by `exec` alone, which the code can't get between.
  const replaceAll = (expression, text, by) => {
    let out = "";
    let from = 0;
    for (let found = exec(expression, text); found !== null; found = exec(expression, text)) {
      out += slice(text, from, found.index) + by(found);
      from = expression.lastIndex;
    }
    return out + slice(text, from);
  };

  // ---- errors, in words ----
  // V8's stack as far as it leads through the user's files, with their names and lines: as RudderStack shows it.
  const frame = /\n    at [^\n]*/g;
  const place = /\$(transformation|library[0-9]+):([0-9]+):([0-9]+)/g;
  const MOST = 500;
  const reason = (error) => {
    try {
      if (typeof error !== "object" || error === null) return slice(NativeString(error), 0, MOST) || "an empty error";
      const { name, message, stack } = error;
      if (typeof message !== "string") return slice(stringify(error) ?? "an error without words", 0, MOST);
      const text = typeof name === "string" && name !== "" ? (message === "" ? name : `${name}: ${message}`) : message;
      let frames = "";
      let theirs = "";
      if (typeof stack === "string") {
        frame.lastIndex = 0;
        for (let found = exec(frame, stack); found !== null; found = exec(frame, stack)) {
          frames += found[0];
          place.lastIndex = 0;
          if (exec(place, found[0]) !== null) theirs = frames;
        }
        // A function without a name: V8 says eval, since the code was compiled at run time.
        theirs = replaceAll(/at eval \(([^()\n]*)\)/g, theirs, (found) => `at ${found[1]}`);
        place.lastIndex = 0;
        theirs = replaceAll(place, theirs, (at) => `${files[at[1]] ?? at[1]}:${at[2] - config.linesBefore}:${at[3]}`);
      }
      const room = theirs.length > MOST / 2 ? MOST / 2 : MOST - theirs.length;
      return slice(slice(text, 0, room) + theirs, 0, MOST);
    } catch {
      return "an error that can't be shown";
    }
  };

  // ---- the code ----
  let factory = null;
  const libraries = create(null);
  const files = { __proto__: null, transformation: config.name };
  let program = null; // the module of this batch
  let settings = null;

  const instantiate = () => {
    if (config.codeVersion === "0") return { batch: factory() };
    const loaded = create(null);
    const $import = (name) => (loaded[name] ??= libraries[name]($import).exports);
    const { exports, handlers } = factory($import);
    return { exports, handlers };
  };

  const handlerOf = (type) => `on${toUpperCase(charAt(type, 0))}${slice(type, 1)}`;

  // How the module is called: by event or by batch, or a text: why it can't be.
  const choose = (module) => {
    if (config.codeVersion === "0") {
      if (typeof module.batch !== "function") return "Expected function transform(events). Found none";
      return { one: null, many: module.batch };
    }
    const { exports, handlers } = module;
    const one = typeof exports.transformEvent === "function" ? exports.transformEvent : null;
    const many = typeof exports.transformBatch === "function" ? exports.transformBatch : null;
    if ((one === null) !== (many === null)) return { one, many };
    if (one === null) {
      const names = ownKeys(handlers);
      for (let at = 0; at < names.length; at++) {
        if (typeof handlers[names[at]] !== "function") continue;
        segment = true;
        const call = (event) => {
          const handler = handlers[handlerOf(NativeString(event.type))];
          if (typeof handler !== "function") throw new EventNotSupported(`no handler for ${event.type}`);
          return handler(event, settings);
        };
        return { one: call, many: null };
      }
    }
    const found = ownKeys(exports).join(",");
    return `Expected one of transformEvent,transformBatch. Found ${one ? "transformEvent,transformBatch" : found || "none"}`;
  };

  // Compiles; returns why it can't be used, or "".
  const load = (body, librariesText) => {
    try {
      // Function, not eval: it refuses code that would close the function around it.
      factory = new NativeFunction("$import", `${body}\n//# sourceURL=$transformation`);
    } catch (error) {
      return `transformation\n${reason(error)}`;
    }
    const bodies = parse(librariesText);
    for (let at = 0; at < bodies.length; at++) {
      const { name, body: text } = bodies[at];
      files[`library${at}`] = `library ${name}`;
      try {
        libraries[name] = new NativeFunction("$import", `${text}\n//# sourceURL=$library${at}`);
      } catch (error) {
        return `library ${name}\n${reason(error)}`;
      }
    }
    try {
      const chosen = choose(instantiate());
      return typeof chosen === "string" ? `\n${chosen}` : "";
    } catch (error) {
      return `\n${reason(error)}`;
    }
  };

  // ---- one event ----
  const notAnObject = "returned event from transformEvent(event) is not an object";
  const notAllObjects = "returned event in events array from transformEvent(event) is not an object";
  const isMessage = (value) => typeof value === "object" && value !== null && !isArray(value);
  const isThenable = (value) => typeof value === "object" && value !== null && typeof value.then === "function";

  const settle = (index, value) => {
    if (value === undefined || value === null) return;
    if (isMessage(value)) {
      results[index] = [value];
    } else if (isArray(value)) {
      for (let at = 0; at < value.length; at++) {
        if (!isMessage(value[at])) {
          results[index] = notAllObjects;
          return;
        }
      }
      if (value.length) results[index] = value;
    } else {
      results[index] = notAnObject;
    }
  };
  const fail = (index, error) => {
    if (!dropped(error)) results[index] = reason(error);
  };

  // From `from` on, as long as nothing has to be waited for; the rest goes on in `runEventsLater`.
  const runEvents = (one, from, mine) => {
    for (let index = from; index < messages.length; index++) {
      enter(index);
      let value;
      try {
        value = one(messages[index], metadata);
        if (isThenable(value)) {
          runEventsLater(one, index, value, mine);
          return false;
        }
        settle(index, value);
      } catch (error) {
        fail(index, error);
      }
    }
    return true;
  };
  const runEventsLater = async (one, index, value, mine) => {
    for (;;) {
      try {
        if (isThenable(value)) value = await value;
        if (mine !== generation) return;
        settle(index, value);
      } catch (error) {
        if (mine !== generation) return;
        fail(index, error);
      }
      if (++index === messages.length) break;
      enter(index);
      try {
        value = one(messages[index], metadata);
      } catch (error) {
        value = null;
        fail(index, error);
      }
    }
    done = true;
  };
  // The code may wait for the world: all events at once, so that they wait together.
  const runTogether = async (one, mine) => {
    let left = messages.length;
    const finish = async (index, value) => {
      try {
        const settled = await value;
        if (mine === generation) settle(index, settled);
      } catch (error) {
        if (mine === generation) fail(index, error);
      }
      if (mine === generation && --left === 0) done = true;
    };
    for (let index = 0; index < messages.length; index++) {
      enter(index);
      let value;
      try {
        value = one(messages[index], metadata);
      } catch (error) {
        fail(index, error);
      }
      finish(index, value);
    }
    progress[0] = 0;
  };

  // ---- the whole batch ----
  // Which input each output belongs to, as `attribution.py` says; null: an output is no message.
  const attribute = (outputs, from, inputs) => {
    const byId = new NativeMap();
    const byUser = new NativeMap();
    const byAnonymous = new NativeMap();
    const note = (map, key, index) => {
      if (typeof key === "string" && !mapHas(map, key)) mapSet(map, key, index);
    };
    for (let at = 0; at < inputs.length; at++) {
      note(byId, inputs[at].messageId, from + at);
      if (inputs[at].userId !== "") note(byUser, inputs[at].userId, from + at);
      if (inputs[at].anonymousId !== "") note(byAnonymous, inputs[at].anonymousId, from + at);
    }
    const owners = [];
    for (let at = 0; at < outputs.length; at++) {
      const output = outputs[at];
      if (!isMessage(output)) return null;
      append(
        owners,
        mapGet(byId, output.messageId) ?? mapGet(byUser, output.userId) ?? mapGet(byAnonymous, output.anonymousId) ?? from,
      );
    }
    return owners;
  };
  const settleBatch = (outputs, from, inputs) => {
    if (!isArray(outputs)) return `returned events from ${program.name}(event) is not an array`;
    const owners = attribute(outputs, from, inputs);
    if (owners === null) return `returned event in events array from ${program.name}(event) is not an object`;
    for (let at = 0; at < outputs.length; at++) {
      const index = owners[at];
      const list = (results[index] ??= []);
      append(list, outputs[at]);
    }
    return "";
  };
  const runBatch = async (many, from, until, given, mine) => {
    // `inputs` stay as they came: the code may change what it is given.
    const all = parse(messagesText);
    const inputs = [];
    for (let at = from; at < until; at++) append(inputs, all[at]);
    progress[0] = until - from === 1 ? from + 1 : 0;
    let why;
    try {
      const value = many(given, metadata);
      const outputs = isThenable(value) ? await value : value;
      if (mine !== generation) return;
      why = settleBatch(outputs, from, inputs);
    } catch (error) {
      if (mine !== generation) return;
      why = reason(error);
    }
    if (why === "") return;
    if (until - from === 1) {
      results[from] = why;
      return;
    }
    const middle = floor((from + until) / 2);
    const fresh = parse(messagesText);
    const halves = [[], []];
    for (let at = from; at < until; at++) append(halves[at < middle ? 0 : 1], fresh[at]);
    for (let at = from; at < until; at++) results[at] = null;
    await runBatch(many, from, middle, halves[0], mine);
    await runBatch(many, middle, until, halves[1], mine);
  };

  // ---- out ----
  // Never a lone surrogate: no UTF-8 has it. JSON.stringify escapes those, and nothing else, as \ud….
  const wellFormed = (text) =>
    includes(text, "\\ud")
      ? replaceAll(/\\\\|\\ud[89a-f][0-9a-f]{2}/g, text, (found) => (found[0] === "\\\\" ? found[0] : "\\ufffd"))
      : text;

  const output = () => {
    generation++;
    forgetAsks();
    progress[0] = 0;
    let text;
    try {
      text = stringify(results);
    } catch {
      text = null;
    }
    if (text === null || text.length > config.maxResultBytes) {
      const parts = [];
      let total = 2;
      for (let index = 0; index < results.length; index++) {
        progress[0] = index + 1;
        let part;
        try {
          part = stringify(results[index]);
          if (part.length > config.maxResultBytes) part = stringify(`returned more than ${config.maxResultBytes} bytes`);
        } catch (error) {
          part = stringify(reason(error));
        }
        total += part.length + 1;
        append(parts, part);
      }
      if (total > config.maxAnswerBytes) return "O";
      text = "[";
      for (let index = 0; index < parts.length; index++) text += (index ? "," : "") + parts[index];
      text += "]";
    }
    return `${sawDestination ? "S" : "N"}${wellFormed(text)}`;
  };
  const forgetAsks = () => {
    waiting = new NativeMap();
    outstanding = 0;
    asks = [];
  };

  // Answers: "S…" or "N…" the results (whether the code saw the destination), "O" overflow, "R" builtins can't be put
  // back, "P" pending: call `poll`.
  const run = (text, metadataGiven, extra) => {
    if (!restore()) return "R";
    exec(/x?/, ""); // RegExp.$1 and its kin forget the last batch
    [seeds, nows, keepLogs] = parse(extra);
    messagesText = text;
    metadataText = metadataGiven;
    messages = parse(text);
    metas = null;
    positions = null;
    ids = new Array(messages.length).fill(undefined);
    for (let index = 0; index < messages.length; index++) ids[index] = messages[index].messageId;
    results = new Array(messages.length).fill(null);
    logs = [];
    logBytes = 0;
    sawDestination = false;
    forgetAsks();
    done = false;
    const mine = ++generation;
    enter(0);
    let chosen;
    try {
      chosen = choose(instantiate());
    } catch (error) {
      for (let index = 0; index < results.length; index++) fail(index, error);
      return output();
    }
    if (typeof chosen === "string") {
      for (let index = 0; index < results.length; index++) results[index] = chosen;
      return output();
    }
    if (segment) settings = parse(config.settings);
    if (chosen.one !== null) {
      if (config.fetch || config.geolocation) {
        runTogether(chosen.one, mine);
      } else if (runEvents(chosen.one, 0, mine)) {
        return output();
      }
      program = chosen;
      return "P";
    }
    program = { name: config.codeVersion === "0" ? "transform" : "transformBatch" };
    (async () => {
      await runBatch(chosen.many, 0, messages.length, messages, mine);
      if (mine === generation) done = true;
    })();
    return "P";
  };

  // After `run` or `answer` gave "P", with all microtasks run. "A…" what is asked, "W" answers are awaited, else as `run`.
  const poll = () => {
    if (done) return output();
    if (asks.length) {
      const text = stringify(asks);
      asks = [];
      return `A${wellFormed(text)}`;
    }
    if (outstanding > 0) return "W";
    // Nothing will ever wake what waits.
    const stuck = "the promise it returned is never settled";
    const at = progress[0] - 1;
    if (program.one && at >= 0 && !(config.fetch || config.geolocation)) {
      results[at] = stuck;
      const mine = ++generation;
      if (at + 1 === messages.length || runEvents(program.one, at + 1, mine)) return output();
      return "P";
    }
    for (let index = 0; index < results.length; index++) results[index] ??= stuck;
    return output();
  };

  const answer = (id, value, failed) => {
    const pending = mapGet(waiting, id);
    if (pending === undefined) return;
    mapDelete(waiting, id);
    outstanding--;
    const given = parse(value);
    if (!failed) pending.resolve(given);
    else pending.reject(typeof given === "string" ? new NativeError(given) : given);
  };

  const takeLogs = () => wellFormed(stringify(logs));

  snapshot();
  return [load, run, poll, answer, takeLogs, progress.buffer];
}
