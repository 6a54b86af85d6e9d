async function onTrack(event, settings) {
  event.properties = { ...event.properties, region: settings.region };
  return event;
}

async function onIdentify(event) {
  throw new EventNotSupported("identify is not wanted");
}
