package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"vipspeaker/pkg/config"
	"vipspeaker/pkg/doctor"
	"vipspeaker/pkg/status"
	"vipspeaker/test/netnstest"
)

// The command tells its findings as text and as JSON, says by its exit code
// whether there are any, and cures them.
func TestDoctorCommand(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns, labConfig)
		args := []string{"doctor", "--config", l.config, "foreign-rule", "rp-filter"}
		if r := call(t, args...); r != (result{exitGood, "nothing found\n", ""}) && !strings.HasPrefix(r.Stdout, "note ") {
			t.Errorf("on a host that is well: %+v", r)
		}
		ns.IP("rule add pref 31000 to 10.99.0.0/16 lookup 200")
		want := `warning  foreign-rule: IPv4 rule 31000 (from all to 10.99.0.0/16 lookup 200) of another owner comes before ours, which begin at 32100
  why:   where it applies no VIP becomes the source, and traffic does not move with a failure
  fix:   ip rule add pref 32710 from all to 10.99.0.0/16 lookup 200 && ip rule del pref 31000 from all to 10.99.0.0/16 lookup 200
         (by hand)
0 bad, 1 warning, 0 notes
`
		if r := call(t, "doctor", "--config", l.config, "foreign-rule"); r != (result{exitBad, want, ""}) {
			t.Errorf("with a finding: %+v", r)
		}
		ns.Sysctl("net/ipv4/conf/en1/rp_filter", "1")
		r := call(t, append(args, "-o", "json", "--fix")...)
		var report doctor.Report
		if err := json.Unmarshal([]byte(r.Stdout), &report); err != nil || r.Code != exitBad {
			t.Fatalf("%v: %+v", err, r)
		}
		if len(report.Findings) != 1 || len(report.Fixed) != 1 || report.Fixed[0].Did[0] != "set net.ipv4.conf.en1.rp_filter to 2" {
			t.Errorf("after the fix: %s", r.Stdout)
		}
		if r := call(t, "doctor", "--config", l.config, "foreign"); r.Code != exitUsage || !strings.Contains(r.Stderr, `no condition is called "foreign"; there are `) {
			t.Errorf("unknown condition: %+v", r)
		}
		if r := call(t, "doctor", "--config", "/none.yaml"); r.Code != exitBad || r.Stderr == "" {
			t.Errorf("no configuration: %+v", r)
		}
	})
}

// A VIP that another host owns, or that was drained for good, is not bound and need
// not be.
func TestDoctorAway(t *testing.T) {
	prefix := netip.MustParsePrefix("10.68.6.1/32")
	done := &status.Drain{Phase: status.DrainDone}
	for name, tt := range map[string]struct {
		unbind bool
		vip    status.VIP
		want   bool
	}{
		"missing":                {false, status.VIP{}, false},
		"owned by another host":  {false, status.VIP{Role: &status.Role{Leased: true}}, true},
		"owned":                  {false, status.VIP{Role: &status.Role{Leased: true, Held: true}}, false},
		"not to be owned":        {false, status.VIP{Role: &status.Role{Rank: 1}}, false},
		"drained, stays bound":   {false, status.VIP{Drain: done}, false},
		"drained and unbound":    {true, status.VIP{Drain: done}, true},
		"draining, bound so far": {true, status.VIP{Drain: &status.Drain{Phase: status.DrainWaiting}}, false},
		"bound":                  {true, status.VIP{Drain: done, Bound: true}, false},
	} {
		cfg := &config.Config{VIPs: []config.VIP{{Name: "vipa", Prefix: prefix, Drain: config.Drain{Unbind: tt.unbind}}}}
		tt.vip.Prefix = prefix
		in := doctorInput(cfg)
		in.Daemon = &doctor.Daemon{}
		addStatus(in, cfg, &status.Status{VIPs: []status.VIP{tt.vip}})
		if got := in.VIPs[0].Away; got != tt.want {
			t.Errorf("%s: away %t, want %t", name, got, tt.want)
		}
	}
}

// A daemon says at its start what is wrong with the host, one line each, and
// shows it; the command knows that it runs.
func TestDaemonLooks(t *testing.T) {
	netnstest.Run(t, func(t *testing.T, ns netnstest.NS) {
		l := newLab(t, ns, labConfig)
		ns.IP("rule add pref 31000 to 10.99.0.0/16 lookup 200")
		p := start(t, nil, nil, "run", "--config", l.config)
		const line = "IPv4 rule 31000 (from all to 10.99.0.0/16 lookup 200) of another owner comes before ours"
		netnstest.Until(t, soon, func() error {
			r := call(t, "status", "--config", l.config)
			if !strings.Contains(r.Stdout, line) {
				return fmt.Errorf("%+v", r)
			}
			return nil
		})
		netnstest.Until(t, soon, func() error {
			if n := strings.Count(p.log.String(), line); n != 1 {
				return fmt.Errorf("the log has it %d times:\n%s", n, p.log.String())
			}
			return nil
		})
		r := call(t, "doctor", "--config", l.config, "-o", "json")
		var report doctor.Report
		if err := json.Unmarshal([]byte(r.Stdout), &report); err != nil {
			t.Fatalf("%v: %+v", err, r)
		}
		if !report.Daemon || !slices.ContainsFunc(report.Findings, func(f doctor.Finding) bool { return f.Condition == "foreign-rule" }) {
			t.Errorf("with a daemon: %s", r.Stdout)
		}
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	})
}
