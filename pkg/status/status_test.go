package status

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var noon = time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return noon.Add(-d) }

// sample is the sample of the manual: two interfaces, all well, with a second
// VIP that has a service behind it.
func sample() *Status {
	en1, en5 := netip.MustParseAddr("10.68.1.2"), netip.MustParseAddr("10.68.5.2")
	on := func(name string, peer netip.Addr) VIPInterface {
		return VIPInterface{Interface: name, Wanted: true, Announced: true, Peers: []netip.Addr{peer}}
	}
	speaker := func(pid int) Speaker { return Speaker{Phase: "running", PID: pid, Since: ago(3 * time.Hour)} }
	return &Status{
		Version: "v0.1.0", StartedAt: ago(3*time.Hour + 12*time.Minute), Time: ago(2 * time.Second),
		ASN: 65010, RouterID: netip.MustParseAddr("10.68.1.1"),
		Config: Config{Path: "/etc/vipspeaker/vipspeaker.yaml", LoadedAt: ago(3 * time.Hour), ReloadOK: true},
		VIPs: []VIP{
			{
				Name: "vipa", Prefix: netip.MustParsePrefix("10.68.6.1/32"), Bound: true, Wanted: true, Announced: true,
				PreferredSource: true, Source: []string{"en1", "en5"},
				Interfaces: []VIPInterface{on("en1", en1), on("en5", en5)},
			},
			{
				Name: "web", Prefix: netip.MustParsePrefix("fd68:6::80/128"), Bound: true, Wanted: true, Announced: true,
				Interfaces: []VIPInterface{on("en1", en1)},
				Checks: []Check{{
					Name: "http", Kind: "http", Verdict: "healthy", Since: ago(time.Hour), Checked: ago(time.Second),
					Duration: 3 * time.Millisecond,
				}},
			},
		},
		Interfaces: []Interface{
			{
				Name: "en1", Index: 2, Usable: true, Since: ago(3 * time.Hour), Speaker: speaker(4711),
				Addresses: []netip.Prefix{netip.MustParsePrefix("10.68.1.1/24")},
				Probes: []Probe{{
					Layer: LayerAttachment, Target: "10.68.1.2", Verdict: "healthy", Since: ago(3 * time.Hour),
					Checked: ago(time.Second), Passed: ago(time.Second), Duration: 400 * time.Microsecond,
				}},
			},
			{
				Name: "en5", Index: 3, Usable: true, Since: ago(95 * time.Second), Speaker: speaker(4712),
				Addresses: []netip.Prefix{netip.MustParsePrefix("10.68.5.1/24"), netip.MustParsePrefix("fd68:5::1/64")},
			},
		},
		Peers: []Peer{
			{
				Address: en1, Interface: "en1", ASN: 65000, LocalAddress: netip.MustParseAddr("10.68.1.1"),
				State: "Established", Since: ago(3 * time.Hour), Transitions: 1, Announced: 2,
				BFD: &BFD{
					State: "Up", Since: ago(3 * time.Hour), RemoteState: "Up", TxInterval: 50 * time.Millisecond,
					DetectionTime: 150 * time.Millisecond, Sent: 216000, Received: 215990, Dropped: 2, LastDrop: "TTL 254, want 255",
				},
			},
			{
				Address: en5, Interface: "en5", ASN: 65000, LocalAddress: netip.MustParseAddr("10.68.5.1"),
				State: "Established", Since: ago(90 * time.Second), Transitions: 3, Announced: 1,
				LastError: "Cease, Administrative Shutdown: \"upgrade\"", LastErrorAt: ago(100 * time.Second),
			},
		},
		Kernel: Kernel{
			Device: "vi0", DeviceKind: "dummy",
			Repaired: map[string]uint64{"address": 1}, Resyncs: map[string]uint64{"start": 1, "enobufs": 2},
		},
		Passes: Passes{OK: 400, Error: 1, Duration: 900 * time.Microsecond},
	}
}

// broken is the sample with en5 without carrier, a failed check and a refused
// reload, and a router that sends escape sequences.
func broken() *Status {
	s := sample()
	s.Time = ago(50 * time.Second)
	s.Config.ReloadOK, s.Config.ReloadedAt = false, ago(5*time.Minute)
	s.Config.Error = "bgp.asn: -1: must be 1 to 4294967295 (and 2 more)"
	s.Passes.LastError = "vip: add rule 32100: operation not permitted"
	s.Kernel.Problems = []string{"en1: rp_filter is 1, replies by another interface are dropped"}
	vipa, web := &s.VIPs[0], &s.VIPs[1]
	vipa.Source = []string{"en1"}
	vipa.Interfaces[1] = VIPInterface{Interface: "en5", Reason: NoUsableInterface, Detail: "en5: no_carrier"}
	web.Bound, web.Wanted, web.Announced = true, false, false
	web.Reason, web.Detail = CheckFailed, "http: got 503, want 200-399"
	web.Interfaces[0] = VIPInterface{Interface: "en1", Reason: CheckFailed}
	web.Checks[0].Verdict, web.Checks[0].Reason = "unhealthy", "got 503, want 200-399"
	s.Interfaces[1].Usable, s.Interfaces[1].Reason, s.Interfaces[1].Addresses = false, InterfaceCarrier, nil
	s.Interfaces[1].Speaker.Phase, s.Interfaces[1].Speaker.Restarts = "backoff", 4
	s.Interfaces[1].Speaker.LastExit = "exit status 2"
	s.Peers[1].State, s.Peers[1].Announced = "Down", 0
	s.Peers[1].LastError = "Cease: \x1b[2Jbye\x9b1m"
	return s
}

// failing is the sample with a router that is dead behind a live switch, another
// one behind which the path is, and a service and an interface that flap.
func failing() *Status {
	s := sample()
	vipa, web, en1, en5 := &s.VIPs[0], &s.VIPs[1], &s.Interfaces[0], &s.Interfaces[1]
	vipa.Interfaces[0] = VIPInterface{Interface: "en1", Reason: NoUsableInterface, Detail: "en1: attachment"}
	vipa.Penalty = Penalty{Value: 1200, Flaps: 1}
	web.Announced, web.Wanted, web.Reason, web.Detail = false, false, Damped, "flapping"
	web.Interfaces[0] = VIPInterface{Interface: "en1", Reason: Damped}
	web.Penalty = Penalty{Value: 2300, Flaps: 3, Suppressed: true, Until: noon.Add(5 * time.Second)}
	web.ChecksMode = "any"
	web.Checks = append(web.Checks, Check{Name: "tcp", Kind: "tcp", Verdict: "unhealthy", Reason: "connection refused", Since: ago(time.Minute)})
	en1.Usable, en1.Reason, en1.Since = false, InterfaceAttachment, ago(11*time.Second)
	en1.Detail = "10.68.1.2 unreachable since 1 s (3 of 3 probes)"
	en1.Failures = []Failure{{Layer: LayerAttachment, Target: "10.68.1.2", Since: ago(12 * time.Second), Failed: 3, Of: 3}}
	en1.Probes[0].Verdict, en1.Probes[0].Since = "unhealthy", ago(11*time.Second)
	en1.Penalty = Penalty{Value: 3100, Flaps: 4, Suppressed: true, Until: noon.Add(20 * time.Minute)}
	en5.Failures = []Failure{
		{Layer: LayerPath, Target: "192.0.2.1", Since: ago(4 * time.Second), Failed: 3, Of: 3, Reason: "icmp 192.0.2.1 by en5: \x1b[2Jno reply"},
		{Layer: LayerBFD, Target: "10.68.5.2", Since: ago(1649 * time.Millisecond), Reason: "control detection time expired"},
	}
	en5.Probes = []Probe{
		{Layer: LayerPath, Target: "192.0.2.1", Verdict: "unhealthy", Since: ago(4 * time.Second), Reason: "192.0.2.1: no reply"},
		{Layer: LayerPath, Target: "192.0.2.9", Verdict: "healthy", Since: ago(time.Hour)},
		{Layer: LayerAttachment, Target: "10.68.5.2", Verdict: "unknown"},
	}
	s.Peers[0].State, s.Peers[0].BFD = "Down", &BFD{State: "AdminDown", Since: ago(11 * time.Second), Error: "listen: address in use"}
	s.Peers[1].BFD = &BFD{
		State: "Down", Since: ago(2 * time.Second), Diagnostic: "control detection time expired", Downs: 1,
		RemoteState: "Down", RemoteDiagnostic: "neighbor signaled session down", Dropped: 104, LastDrop: "not authenticated",
	}
	return s
}

// longCauses is failing with more to say about it.
func longCauses() *Status {
	s := failing()
	s.Interfaces[0].Penalty, s.VIPs[1].Degraded = Penalty{}, true
	s.VIPs[1].Checks[1].Reason = "https://10.68.6.1/healthz: tls: failed to verify certificate: x509: certificate signed by unknown authority"
	s.VIPs[0].Interfaces[0].Detail = "attachment: 10.68.1.2 unreachable (3 of 3 probes); fd68:1::2 unreachable (3 of 3 probes)"
	s.Peers[0].LastError = strings.Repeat("a long word of the router ", 15)
	return s
}

// degradedSample is the sample with a service that fails and is announced all
// the same, and a router that does not want BFD.
func degradedSample() *Status {
	s := sample()
	web := &s.VIPs[1]
	web.Degraded = true
	web.Checks[0].Verdict, web.Checks[0].Reason = "unhealthy", "got 503, want 200-399"
	s.Peers[0].BFD = &BFD{State: "Down", Since: ago(time.Minute), Downs: 2, RemoteState: "AdminDown", Diagnostic: "neighbor signaled session down"}
	s.Peers[1].BFD = &BFD{State: "Init", Since: ago(time.Second), RemoteState: "Down", Dropped: 1, LastDrop: "other authentication key ID"}
	return s
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

// tables are those of a picture.
func tables(t *testing.T, s *Status, style Style) string {
	t.Helper()
	var b strings.Builder
	if err := WriteText(&b, s, style, noon); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestText(t *testing.T) {
	empty := &Status{Version: "v0.1.0", StartedAt: ago(time.Second), Time: noon, ASN: 65010, Config: Config{ReloadOK: true}}
	stopping := sample()
	stopping.Stopping = true
	stopping.VIPs[0].Interfaces[0].Wanted = false
	stopping.VIPs[0].Interfaces[1] = VIPInterface{Interface: "en5", Wanted: true}
	degraded := degradedSample()
	tests := map[string]struct {
		status *Status
		style  Style
	}{
		"good":        {sample(), Style{}},
		"good-marks":  {sample(), Style{Marks: true}},
		"good-colour": {sample(), Style{Marks: true, Colour: true}},
		"broken":      {broken(), Style{}},
		"failing":     {failing(), Style{Marks: true}},
		"degraded":    {degraded, Style{Marks: true}},
		"stopping":    {stopping, Style{Marks: true}},
		"empty":       {empty, Style{}},

		"failing-100": {longCauses(), Style{Marks: true, Columns: 100}},
		"failing-60":  {longCauses(), Style{Columns: 60}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			if err := WriteText(&b, tt.status, tt.style, noon); err != nil {
				t.Fatal(err)
			}
			golden(t, name, b.String())
			if !tt.style.Marks && strings.ContainsFunc(b.String(), func(r rune) bool { return r > 126 || r < ' ' && r != '\n' }) {
				t.Error("output for a pipe is not plain ASCII")
			}
		})
	}
}

// TestWidth: no text at the end of a line is wider than the terminal, and on a
// wide one everything is as where the width is not known.
func TestWidth(t *testing.T) {
	for _, columns := range []int{92, 100, 120} {
		style := Style{Marks: true, Colour: true, Columns: columns}
		e, err := longCauses().Explain("vipa", noon)
		if err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		if err := e.WriteText(&b, style); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(strings.Join(strings.Fields(b.String()), " "), "long word of the router"); got != 15 {
			t.Errorf("%d columns: the explanation has %d of 15 parts of the cause:\n%s", columns, got, &b)
		}
		text := regexp.MustCompile("\x1b\\[[0-9]*m").ReplaceAllString(tables(t, longCauses(), style)+b.String(), "")
		for line := range strings.Lines(text) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > columns || strings.HasSuffix(line, " \n") {
				t.Errorf("%d columns: a line has %d: %q", columns, n, line)
			}
		}
		if strings.Count(text, "…") != 1 {
			t.Errorf("%d columns: what is left out is not marked:\n%s", columns, text)
		}
	}
	if diff := cmp.Diff(tables(t, longCauses(), Style{}), tables(t, longCauses(), Style{Columns: 1000})); diff != "" {
		t.Error(diff)
	}
}

func TestWrap(t *testing.T) {
	tests := []struct {
		text           string
		columns, lines int
		want           []string
	}{
		{"one two three", 13, 0, []string{"one two three"}},
		{"one two three", 12, 0, []string{"one two", "three"}},
		{"one two three", 5, 0, []string{"one", "two", "three"}},
		{"one two three", 7, 1, []string{"one..."}},
		{"one two three four", 5, 2, []string{"one", "tw..."}},
		{"immeasurable one", 8, 0, []string{"immea...", "one"}},
		{"✓ ééé", 5, 1, []string{"✓ ééé"}},
	}
	for _, tt := range tests {
		if diff := cmp.Diff(tt.want, wrap(tt.text, tt.columns, tt.lines, "...")); diff != "" {
			t.Errorf("%q in %d columns, %d lines (-want +got):\n%s", tt.text, tt.columns, tt.lines, diff)
		}
	}
}

// TestJoinedErrors: several errors of a pass are shown below each other, those
// in a cell of a table beside each other.
func TestJoinedErrors(t *testing.T) {
	s := sample()
	s.Passes.LastError = errors.Join(errors.New("add rule 32100: busy"), errors.New("add address: no\x1b[2J")).Error()
	s.Interfaces[0].Detail = "one\ntwo"
	for name, style := range map[string]Style{"plain": {}, "marks": {Marks: true}} {
		var b strings.Builder
		if err := WriteText(&b, s, style, noon); err != nil {
			t.Fatal(err)
		}
		indent := "      "
		if style.Marks {
			indent += "  "
		}
		if want := "pass  add rule 32100: busy\n" + indent + "add address: no\\x1b[2J\n"; !strings.Contains(b.String(), want) {
			t.Errorf("%s: want %q:\n%s", name, want, &b)
		}
		if !strings.Contains(b.String(), "one; two") || strings.Contains(b.String(), `\n`) {
			t.Errorf("%s: lines in a cell:\n%s", name, &b)
		}
	}
}

func TestLastErrorOfAPeer(t *testing.T) {
	up := Peer{State: "Established", Since: ago(time.Minute), LastError: "hold timer expired"}
	idle := up
	idle.State = "Idle"
	at := func(p Peer, d time.Duration) Peer {
		p.LastErrorAt = ago(d)
		return p
	}
	bfd := func(p Peer) Peer {
		p.BFD = &BFD{State: "Down", LastDrop: "not authenticated"}
		return p
	}
	tests := map[string]struct {
		peer Peer
		want string
	}{
		"none":             {Peer{State: "Established", Since: ago(time.Minute)}, ""},
		"overcome":         {at(up, 2*time.Minute), "before: hold timer expired (2m00s ago)"},
		"that ended it":    {at(up, time.Minute), "before: hold timer expired (1m00s ago)"},
		"of this session":  {at(up, time.Second), "hold timer expired (1s ago)"},
		"overcome, no age": {up, "before: hold timer expired"},
		"not up":           {at(idle, 2*time.Minute), "hold timer expired (2m00s ago)"},
		"not up, no age":   {idle, "hold timer expired"},
		"BFD, overcome":    {bfd(up), "BFD: packets dropped: not authenticated"},
		"BFD, not up":      {bfd(idle), "hold timer expired; BFD: packets dropped: not authenticated"},
	}
	for name, tt := range tests {
		if got := tt.peer.troubles(noon); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

func TestExplain(t *testing.T) {
	unbound := sample()
	unbound.VIPs[0].Bound, unbound.VIPs[0].Announced, unbound.VIPs[0].Source = false, false, nil
	unbound.VIPs[0].Reason, unbound.VIPs[0].Detail = NotBound, "add address: operation not permitted"
	for i := range unbound.VIPs[0].Interfaces {
		unbound.VIPs[0].Interfaces[i] = VIPInterface{Interface: unbound.VIPs[0].Interfaces[i].Interface, Wanted: true, Reason: NotBound}
	}
	tests := map[string]struct {
		status *Status
		vip    string
	}{
		"why-good":    {sample(), "vipa"},
		"why-address": {sample(), "fd68:6::80"},
		"why-half":    {broken(), "10.68.6.1/32"},
		"why-check":   {broken(), "web"},
		"why-unbound": {unbound, "vipa"},

		"why-attachment": {failing(), "vipa"},
		"why-damped":     {failing(), "web"},
		"why-degraded":   {degradedSample(), "web"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			e, err := tt.status.Explain(tt.vip, noon)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			if err := e.WriteText(&b, Style{}); err != nil {
				t.Fatal(err)
			}
			golden(t, name, b.String())
		})
	}
	_, err := sample().Explain("vipb", noon)
	if want := `no VIP "vipb": the configuration has vipa, web`; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	if _, err = (&Status{}).Explain("x", noon); err == nil {
		t.Error("no error without VIPs")
	}
}

func TestJSONRoundTrip(t *testing.T) {
	var b bytes.Buffer
	if err := WriteJSON(&b, broken()); err != nil {
		t.Fatal(err)
	}
	golden(t, "broken-json", b.String())
	var got Status
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	// A byte that is no UTF-8 becomes U+FFFD on the way.
	want := broken()
	want.Peers[1].LastError = strings.ToValidUTF8(want.Peers[1].LastError, "\uFFFD")
	if diff := cmp.Diff(want, &got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("after a round trip (-want +got):\n%s", diff)
	}
}

func TestSpan(t *testing.T) {
	tests := map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 59 * time.Second: "59s", time.Minute: "1m00s", 61 * time.Minute: "1h01m",
		25*time.Hour + 59*time.Minute: "1d01h", 400 * 24 * time.Hour: "400d00h",
	}
	for d, want := range tests {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %s, want %s", d, got, want)
		}
	}
}
