package topologies

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// TestEventsRing: of many events the daemon keeps the last thousand, tells what
// is lost, and has counted all.
func TestEventsRing(t *testing.T) {
	t.Parallel()
	m := &modes{t: t, l: lab.Start(t, "vipa")}
	m.host = m.l.Node("host")
	m.wire = m.host.Capture()
	const vips = 60
	c := hostConfig{more: "damping: {enabled: false}"}
	for i := range vips {
		c.vips = append(c.vips, vipLine(fmt.Sprintf("v%d", i), prefix4(100+i), checks("{listen: {port: 8100, address: 10.68.6.100}, interval: 200ms, timeout: 200ms}")))
	}
	service := netip.MustParseAddrPort("10.68.6.100:8100")
	listener, err := m.host.Listen(service)
	if err != nil {
		t.Fatal(err)
	}
	// What nothing refers to any more is closed by the garbage collector.
	t.Cleanup(func() { _ = listener.Close() })
	m.s = startWith(t, m.l, c)
	for rounds := 0; m.lastEvent() < status.KeptEvents+vips; rounds++ {
		if rounds == 2*status.KeptEvents/vips {
			t.Fatalf("%d flaps of %d VIPs are %d events", rounds, vips, m.lastEvent())
		}
		if err = listener.Close(); err != nil {
			t.Fatal(err)
		}
		m.s.WaitStatus(5*time.Second, "withheld", withheld("v59", status.CheckFailed))
		if listener, err = m.host.Listen(service); err != nil {
			t.Fatal(err)
		}
		m.s.WaitStatus(5*time.Second, "announced", lab.Established)
	}
	waitQuiet(t, m.wire, r1v4, r5v4)

	kept, stderr := m.events()
	last := kept[len(kept)-1].Seq
	if len(kept) != status.KeptEvents || stderr != "" {
		t.Errorf("%d events, %s", len(kept), stderr)
	}
	for i := range kept {
		if want := last - uint64(len(kept)-1-i); kept[i].Seq != want {
			t.Fatalf("event %d is number %d, want %d", i, kept[i].Seq, want)
		}
	}
	// Until nothing happens in between.
	lab.Eventually(t, 20*time.Second, "it tells what is lost, and has counted all", func() error {
		last = m.lastEvent()
		_, stderr = m.events("--since", "1")
		counted := 0.0
		for series, value := range scrape(t, m.host) {
			if strings.HasPrefix(series, "vipspeaker_events_total{") {
				counted += value
			}
		}
		want := fmt.Sprintf("%d events before number %d are lost", last-status.KeptEvents-1, last-status.KeptEvents+1)
		return lab.That(strings.Contains(stderr, want) && counted == float64(last), "standard error %q, vipspeaker_events_total %v in all, %d events", stderr, counted, last)
	})
	of, _ := m.events("--vip", "v7")
	if len(of) == 0 || slices.ContainsFunc(of, func(e status.Event) bool { return !e.About("", "v7") }) {
		t.Errorf("events of v7: %v", of)
	}
	t.Logf("%d events, %d kept, %d of them of one of %d VIPs", last, len(kept), len(of), vips)
}

func (m *modes) lastEvent() uint64 {
	list, _ := m.events()
	return list[len(list)-1].Seq
}

// events returns what `vipspeaker events` says, with its standard error.
func (m *modes) events(args ...string) (list []status.Event, stderr string) {
	m.t.Helper()
	cmd := m.host.Command(append([]string{binary(m.t), "events", "-o", "json"}, args...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		m.t.Fatalf("events %v: %v: %s", args, err, said.String())
	}
	for line := range bytes.Lines(out) {
		var e status.Event
		if err := json.Unmarshal(line, &e); err != nil {
			m.t.Fatalf("%v in %s", err, line)
		}
		list = append(list, e)
	}
	return list, said.String()
}
