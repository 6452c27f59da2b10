for (const figure of document.querySelectorAll("figure")) {
  const data = figure.querySelector("script");
  if (!data) continue;
  const reads = JSON.parse(data.textContent);
  const read = figure.querySelector(".read");
  const rest = read.textContent;
  for (const plot of figure.querySelectorAll("svg.plot")) {
    const cursor = plot.querySelector(".cursor");
    plot.addEventListener("pointermove", (event) => {
      const x = new DOMPoint(event.clientX, event.clientY).matrixTransform(plot.getScreenCTM().inverse()).x;
      const nearest = reads.reduce((best, each) => (Math.abs(each[0] - x) < Math.abs(best[0] - x) ? each : best));
      cursor.setAttribute("x1", nearest[0]);
      cursor.setAttribute("x2", nearest[0]);
      read.textContent = nearest[1];
    });
    plot.addEventListener("pointerleave", () => {
      cursor.setAttribute("x1", -9);
      cursor.setAttribute("x2", -9);
      read.textContent = rest;
    });
  }
}
