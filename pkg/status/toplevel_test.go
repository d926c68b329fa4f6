package status

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// topLevel is a host with a peer that belongs to no interface, and one that is
// found by itself and has not been.
func topLevel() *Status {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	hop := netip.MustParseAddr("10.68.1.1")
	return &Status{
		Time: now, StartedAt: now, Config: Config{ReloadOK: true}, TopLevel: &Speaker{Phase: "backoff", LastExit: "killed"},
		Interfaces: []Interface{{Name: "en1", Usable: true, Speaker: Speaker{Phase: "running"}}},
		VIPs: []VIP{{Name: "vipa", Prefix: netip.MustParsePrefix("10.68.6.1/32"), Bound: true, Wanted: true, Announced: true, Interfaces: []VIPInterface{
			{Interface: "en1", Wanted: true, Reason: NoSession, Detail: "no router heard on en1 yet"},
			{
				Interface: TopLevel, Wanted: true, Announced: true, NextHop: hop, Peers: []netip.Addr{netip.MustParseAddr("10.255.0.9")},
				Paths: []Path{{"en1", 1, hop}, {"en5", 2, netip.MustParseAddr("10.68.5.1")}},
			},
		}}},
		Peers: []Peer{
			{Found: "unnumbered", Interface: "en1", State: "Down", LastError: "no router heard on en1 yet"},
			{Address: netip.MustParseAddr("10.255.0.9"), Interface: TopLevel, ASN: 65010, State: established},
		},
	}
}

func TestTopLevelText(t *testing.T) {
	t.Parallel()
	s := topLevel()
	var b strings.Builder
	if err := WriteText(&b, s, Style{}, s.Time); err != nil {
		t.Fatal(err)
	}
	e, err := s.Explain("vipa", s.Time)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.WriteText(&b, Style{}); err != nil {
		t.Fatal(err)
	}
	words := strings.Join(strings.Fields(b.String()), " ")
	for _, want := range []string{
		"SOURCE en1 top-level peers vipa", "speaker top-level peers: speaker backoff: killed",
		"unnumbered en1 external Down", "10.255.0.9 top-level peers 65010 Established",
		"announced on top-level peers, withheld on en1: no_session",
		"to 10.255.0.9, next hop 10.68.1.1 by en1, with ADD-PATH also 10.68.5.1 by en5",
		"unnumbered Down: no router heard on en1 yet",
	} {
		if !strings.Contains(words, want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestTopLevelMetrics(t *testing.T) {
	t.Parallel()
	store := NewStore()
	store.Publish(topLevel())
	registry := prometheus.NewRegistry()
	registry.MustRegister(NewCollector(store, Build{}))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetValue() == TopLevel || l.GetValue() == "unnumbered" {
					got[f.GetName()+" "+l.GetValue()]++
				}
			}
		}
	}
	for _, want := range []string{"vipspeaker_speaker_up " + TopLevel, "vipspeaker_peer_up " + TopLevel, "vipspeaker_peer_up unnumbered", "vipspeaker_vip_announced " + TopLevel} {
		if got[want] != 1 {
			t.Errorf("%s: %d series, want 1", want, got[want])
		}
	}
}
