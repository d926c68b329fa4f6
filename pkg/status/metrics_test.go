package status

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// newRegistry returns a registry that checks what collectors promise.
func newRegistry(t *testing.T) (*Store, *prometheus.Registry) {
	t.Helper()
	store := NewStore()
	reg := prometheus.NewPedanticRegistry()
	for _, c := range []prometheus.Collector{NewCollector(store, Build{"v0.1.0", "abcdef", "go1.26"}), NewEvents(1)} {
		if err := reg.Register(c); err != nil {
			t.Fatal(err)
		}
	}
	return store, reg
}

func TestMetrics(t *testing.T) {
	store, reg := newRegistry(t)
	if err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP vipspeaker_build_info Always 1; the labels say what program this is.
# TYPE vipspeaker_build_info gauge
vipspeaker_build_info{goversion="go1.26",revision="abcdef",version="v0.1.0"} 1
`), "vipspeaker_build_info", "vipspeaker_vip_bound"); err != nil {
		t.Error("before the first pass:", err)
	}
	store.Publish(broken())
	want := `
# HELP vipspeaker_check_healthy 1 if the check's verdict is healthy; unknown and stale count as 0.
# TYPE vipspeaker_check_healthy gauge
vipspeaker_check_healthy{check="http",vip="web"} 0
# HELP vipspeaker_config_reload_successful 1 if the configuration in force is the file as last read, 0 if the last reload was refused.
# TYPE vipspeaker_config_reload_successful gauge
vipspeaker_config_reload_successful 0
# HELP vipspeaker_netlink_resyncs_total Full re-reads of the kernel.
# TYPE vipspeaker_netlink_resyncs_total counter
vipspeaker_netlink_resyncs_total{cause="enobufs"} 2
vipspeaker_netlink_resyncs_total{cause="start"} 1
# HELP vipspeaker_peer_up 1 if the session is established.
# TYPE vipspeaker_peer_up gauge
vipspeaker_peer_up{interface="en1",peer="10.68.1.2"} 1
vipspeaker_peer_up{interface="en5",peer="10.68.5.2"} 0
# HELP vipspeaker_speaker_up 1 if the interface's speaker process runs and answers.
# TYPE vipspeaker_speaker_up gauge
vipspeaker_speaker_up{interface="en1"} 1
vipspeaker_speaker_up{interface="en5"} 0
# HELP vipspeaker_vip_announce_desired 1 if the VIP should be announced on the interface.
# TYPE vipspeaker_vip_announce_desired gauge
vipspeaker_vip_announce_desired{interface="en1",vip="vipa"} 1
vipspeaker_vip_announce_desired{interface="en1",vip="web"} 0
vipspeaker_vip_announce_desired{interface="en5",vip="vipa"} 0
# HELP vipspeaker_vip_announced 1 if the session is established and carries the VIP.
# TYPE vipspeaker_vip_announced gauge
vipspeaker_vip_announced{interface="en1",peer="10.68.1.2",vip="vipa"} 1
vipspeaker_vip_announced{interface="en1",peer="10.68.1.2",vip="web"} 0
vipspeaker_vip_announced{interface="en5",peer="10.68.5.2",vip="vipa"} 0
# HELP vipspeaker_vip_withheld 1 for the reason why the VIP is announced nowhere; absent while it is announced.
# TYPE vipspeaker_vip_withheld gauge
vipspeaker_vip_withheld{reason="check_failed",vip="web"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want),
		"vipspeaker_check_healthy", "vipspeaker_config_reload_successful", "vipspeaker_netlink_resyncs_total", "vipspeaker_peer_up",
		"vipspeaker_speaker_up", "vipspeaker_vip_announce_desired", "vipspeaker_vip_announced", "vipspeaker_vip_withheld"); err != nil {
		t.Error(err)
	}
}

// TestDrainMetric: of drained VIPs whose connections were counted.
func TestDrainMetric(t *testing.T) {
	store, reg := newRegistry(t)
	three := 3
	store.Publish(&Status{VIPs: []VIP{{Name: "a", Drain: &Drain{Connections: &three}}, {Name: "b", Drain: &Drain{}}, {Name: "c"}, {Name: "d", Parted: &Drain{Connections: &three}}}})
	if err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP vipspeaker_vip_drain_connections TCP connections from elsewhere that a VIP still has that is drained or was handed over; absent for any other, and before they were counted.
# TYPE vipspeaker_vip_drain_connections gauge
vipspeaker_vip_drain_connections{vip="a"} 3
vipspeaker_vip_drain_connections{vip="d"} 3
`), "vipspeaker_vip_drain_connections"); err != nil {
		t.Error(err)
	}
}

// TestFailureMetrics: probes, BFD and damping of a picture in which all of them
// have something to tell.
func TestFailureMetrics(t *testing.T) {
	store, reg := newRegistry(t)
	s := failing()
	s.VIPs[0].Degraded = true
	s.Interfaces[1].Probes = append(s.Interfaces[1].Probes, s.Interfaces[1].Probes[0]) // a second series like it would fail the scrape
	s.Peers[1].BFD.Sent, s.Peers[1].BFD.Received, s.Peers[1].BFD.Dropped = 30, 20, 10
	store.Publish(s)
	var b strings.Builder
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		name := strings.TrimPrefix(f.GetName(), "vipspeaker_")
		if !regexp.MustCompile("bfd|probe|penalty|suppressed|flaps|degraded|interface_u").MatchString(name) {
			continue
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			value := m.GetGauge().GetValue() + m.GetCounter().GetValue()
			fmt.Fprintf(&b, "%s %s{%s} %v\n", strings.ToLower(f.GetType().String()), name, strings.Join(labels, ","), value)
		}
	}
	golden(t, "failing-metrics", b.String())
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("not as Prometheus wants it: %v %+v", err, problems)
	}
}

// TestNoStaleSeries: what left the configuration leaves the metrics with the
// next pass, and a reason with its cause.
func TestNoStaleSeries(t *testing.T) {
	store, reg := newRegistry(t)
	store.Publish(failing())
	store.Publish(&Status{Time: time.Now(), Config: Config{ReloadOK: true}})
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if slices.Contains([]string{"vip", "interface", "peer", "check", "reason", "target"}, l.GetName()) {
					t.Errorf("%s still has %s=%s", f.GetName(), l.GetName(), l.GetValue())
				}
			}
		}
	}
}

func TestPassDurationCountsPasses(t *testing.T) {
	store, reg := newRegistry(t)
	for range 3 {
		store.Publish(sample())
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "vipspeaker_pass_duration_seconds" {
			if n := f.GetMetric()[0].GetHistogram().GetSampleCount(); n != 3 {
				t.Errorf("%d passes observed, want 3", n)
			}
			return
		}
	}
	t.Error("no pass_duration_seconds")
}

// TestMetricsAreDocumented compares docs/metrics.md with the registry.
func TestMetricsAreDocumented(t *testing.T) {
	store, reg := newRegistry(t)
	all := withEgress(broken())
	all.VIPs[0].Role = &Role{Rank: 1, Leased: true}
	all.VIPs[0].Drain = &Drain{Connections: new(int)}
	store.Publish(all)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, f := range families {
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		have = append(have, strings.Join([]string{f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, ",")}, " "))
	}
	doc, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	row := regexp.MustCompile("(?m)^\\| `(vipspeaker_\\w+)` \\| (\\w+) \\| ([^|]*) \\|")
	for _, m := range row.FindAllStringSubmatch(string(doc), -1) {
		labels := strings.Split(strings.NewReplacer("`", "", " ", "").Replace(m[3]), ",")
		slices.Sort(labels)
		documented = append(documented, strings.Join([]string{m[1], m[2], strings.Join(labels, ",")}, " "))
	}
	slices.Sort(have)
	slices.Sort(documented)
	if diff := cmp.Diff(have, documented); diff != "" {
		t.Errorf("docs/metrics.md (-registry +document):\n%s", diff)
	}
}
