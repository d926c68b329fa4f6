package status

import (
	"net/netip"
	"strings"
	"time"
)

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
	vipa.Interfaces[0] = VIPInterface{Interface: "en1", Reason: NoUsableInterface, Detail: "attachment: 10.68.1.2 unreachable since 1 s (3 of 3 probes)"}
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
	s.Peers[0].LastError = "interface en1: attachment: 10.68.1.2 unreachable since 1 s (3 of 3 probes)"
	s.Peers[0].State, s.Peers[0].BFD = "Down", &BFD{State: "AdminDown", Since: ago(11 * time.Second), Error: "listen: address in use"}
	s.Peers[1].BFD = &BFD{
		State: "Down", Since: ago(2 * time.Second), Diagnostic: "control detection time expired", Downs: 1,
		RemoteState: "Down", RemoteDiagnostic: "neighbor signaled session down", Dropped: 104, LastDrop: "not authenticated",
	}
	return s
}

// nowhere is failing with a dead path behind the other interface, too.
func nowhere() *Status {
	s := failing()
	vipa, en5 := &s.VIPs[0], &s.Interfaces[1]
	en5.Usable, en5.Reason = false, InterfacePath
	vipa.Interfaces[1] = VIPInterface{
		Interface: "en5", Reason: NoUsableInterface,
		Detail: "path: 192.0.2.1 does not answer since 1 s (3 of 3 probes): no reply; BFD with 10.68.5.2 down since 1 s",
	}
	vipa.Announced, vipa.Reason = false, NoUsableInterface
	vipa.Detail = "en1: " + vipa.Interfaces[0].Detail + "; en5: " + vipa.Interfaces[1].Detail
	s.Peers[1].State, s.Peers[1].LastErrorAt = "Down", time.Time{}
	s.Peers[1].LastError = "interface en5: " + vipa.Interfaces[1].Detail
	return s
}

// longCauses is failing with more to say about it.
func longCauses() *Status {
	s := failing()
	linkLocal := netip.MustParsePrefix("fe80::ccf2:31ff:fefb:a0a3/64")
	s.Interfaces[0].Addresses, s.Interfaces[1].Addresses = []netip.Prefix{linkLocal}, append(s.Interfaces[1].Addresses, linkLocal)
	s.Interfaces[0].Penalty, s.VIPs[1].Degraded = Penalty{}, true
	s.VIPs[1].Checks[1].Reason = "https://10.68.6.1/healthz: tls: failed to verify certificate: x509: certificate signed by unknown authority"
	s.Interfaces[0].Failures = append(s.Interfaces[0].Failures, Failure{Layer: LayerAttachment, Target: "fd68:1::2", Since: ago(11 * time.Second)})
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
