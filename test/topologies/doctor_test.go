package topologies

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"vipspeaker/pkg/doctor"
	"vipspeaker/pkg/status"
	"vipspeaker/test/topologies/lab"
)

// diagnosis runs the command and reads its report; whether it found something
// must be in its exit code too.
func diagnosis(t *testing.T, s *lab.Speaker, args ...string) *doctor.Report {
	t.Helper()
	out, err := s.Command(slices.Concat([]string{"doctor", "-o", "json"}, args)...)
	var r doctor.Report
	start := strings.Index(out, "{")
	if start < 0 {
		t.Fatalf("doctor: %v: %s", err, out)
	}
	if decodeErr := json.NewDecoder(strings.NewReader(out[start:])).Decode(&r); decodeErr != nil {
		t.Fatalf("doctor: %v, %v: %s", err, decodeErr, out)
	}
	if r.Good() != (err == nil) {
		t.Errorf("exit code %v, findings %+v", err, r.Findings)
	}
	return &r
}

// On a host that is well, beside FRR and BIRD, nothing is found. A masquerade
// rule is, by the daemon too, and is cured.
func TestDoctor(t *testing.T) {
	t.Parallel()
	l, s := startSample(t)
	host := l.Node("host")
	if r := diagnosis(t, s); !r.Good() || !r.Daemon || len(r.NotSeen) > 0 {
		t.Errorf("on a host that is well: %+v, not seen %+v", r.Findings, r.NotSeen)
	} else {
		t.Logf("notes: %+v", r.Notes)
	}

	host.WriteFile("/etc/nat.nft", "table ip nat {\nchain post {\ntype nat hook postrouting priority srcnat; policy accept;\noifname \"en*\" masquerade\n}\n}\n")
	host.Run("nft", "-f", "/etc/nat.nft")
	const what = "what leaves from 10.68.6.1 by en1, en5 gets another source (table ip nat, chain post, rule with handle 2)"
	if r := diagnosis(t, s, "masquerade"); len(r.Findings) != 1 || r.Findings[0].Found != what {
		t.Errorf("with a masquerade rule: %+v", r.Findings)
	}
	if _, err := s.Command("reload"); err != nil { // so that the daemon looks at once
		t.Fatal(err)
	}
	s.WaitStatus(15*time.Second, "the daemon has found it", func(st *status.Status) error {
		return lab.That(slices.ContainsFunc(st.Kernel.Problems, func(p string) bool { return strings.HasPrefix(p, what) }), "problems %q", st.Kernel.Problems)
	})
	r := diagnosis(t, s, "--fix", "masquerade")
	if len(r.Fixed) != 1 || !r.Good() || r.Fixed[0].Undo != "nft delete table ip vipspeaker_doctor" {
		t.Errorf("after the fix: %+v", r)
	}
	if r := diagnosis(t, s); !r.Good() {
		t.Errorf("after the fix: %+v", r.Findings)
	}
}
