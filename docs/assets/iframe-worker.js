/* Search runs in a worker, and browsers refuse workers to pages that are opened from the disk.
   There this runs the same script in a hidden frame instead. */
(function () {
  "use strict";
  if (location.protocol !== "file:") return;

  class FrameWorker extends EventTarget {
    constructor(address) {
      super();
      const waiting = [];
      const frame = document.createElement("iframe");
      let ready = false;
      frame.hidden = true;
      const deliver = (data) => frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }));
      this.postMessage = (data) => { if (ready) deliver(data); else waiting.push(data); };
      this.terminate = () => frame.remove();
      const begin = () => {
        document.body.append(frame);
        const inside = frame.contentWindow;
        inside.postMessage = (data) => setTimeout(() => {
          const event = new MessageEvent("message", { data });
          this.dispatchEvent(event);
          if (this.onmessage) this.onmessage(event);
        });
        const script = frame.contentDocument.createElement("script");
        script.src = address;
        script.onload = () => { ready = true; waiting.splice(0).forEach(deliver); };
        frame.contentDocument.body.append(script);
      };
      if (document.body) begin();
      else document.addEventListener("DOMContentLoaded", begin);
    }
  }

  window.IFrameWorker = FrameWorker;
  window.Worker = FrameWorker;
})();
