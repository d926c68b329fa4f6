package doctor

// Condition is something that breaks, or may break, what the daemon promises.
type Condition struct {
	// Name is one word, Title says what it is and Effect what it does.
	Name, Title, Effect string
	// Severity is the usual one, Remedy the best that --fix can do.
	Severity Severity
	Remedy   Remedy

	look func(*exam)
	// own is what the daemon tells by itself when it runs, heavy what takes long or
	// sends packets.
	own, heavy bool
}

// Conditions is the table of all conditions, in the order of a report.
func Conditions() []Condition {
	var list []Condition
	for _, area := range [][]Condition{sysctlConditions(), ruleConditions(), linkConditions(), managerConditions(), firewallConditions(), bgpConditions()} {
		list = append(list, area...)
	}
	return list
}

func sysctlConditions() []Condition {
	return []Condition{
		{
			Name: "rp-filter", Severity: Bad, Remedy: Fixes, look: lookReversePath,
			Title:  "a strict reverse path filter on a listed interface",
			Effect: "packets for a VIP that come by another interface than the one by which the reply leaves are dropped",
		},
		{
			Name: "no-way-back", Severity: Bad, Remedy: ByHand, look: lookNoWayBack, heavy: true,
			Title:  "a reverse path filter, and no route back to clients",
			Effect: "packets from clients to which no route leads are dropped, by the loose filter too",
		},
		{
			Name: "arp-announce", Severity: Warning, Remedy: Fixes, look: lookARPAnnounce,
			Title:  "ARP requests with a VIP as their sender",
			Effect: "a router without a route to the VIP by that interface does not answer, and is unreachable",
		},
		{
			Name: "linkdown", Severity: Warning, Remedy: Fixes, look: lookLinkdown,
			Title:  "routes without carrier are used",
			Effect: "when an interface loses its carrier, part of the connections stall for 3 s and longer",
		},
		{
			Name: "multipath-hash", Severity: Note, Remedy: Fixes, look: lookHashPolicy,
			Title:  "the multipath hash takes addresses only",
			Effect: "all connections between two addresses use one interface; 1 spreads them",
		},
		{
			Name: "accept-local", Severity: Warning, Remedy: Fixes, look: lookAcceptLocal, heavy: true,
			Title:  "packets from another host with the same VIP are refused",
			Effect: "what it sends from the VIP to this host is dropped as from an own address",
		},
	}
}

func ruleConditions() []Condition {
	return []Condition{
		{
			Name: "foreign-rule", Severity: Warning, Remedy: ByHand, look: lookForeignRules,
			Title:  "a routing rule of another owner before ours",
			Effect: "where it applies no VIP becomes the source, and traffic does not move with a failure",
		},
		{
			Name: "rule-missing", Severity: Bad, Remedy: ByHand, look: lookOwnRules, own: true,
			Title:  "a routing rule of the daemon is missing",
			Effect: "replies from the VIP leave by the main table's route, whether it works or not",
		},
		{
			Name: "left-behind", Severity: Bad, Remedy: ByHand, look: lookLeftBehind, own: true,
			Title:  "rules and routes of a daemon that is gone, without its VIP",
			Effect: "every new IPv4 connection that names no source fails with 'network is unreachable'",
		},
	}
}

func linkConditions() []Condition {
	return []Condition{
		{
			Name: "vip-unusable", Severity: Bad, Remedy: Fixes, look: lookUnusable, own: true,
			Title:  "a VIP is tentative, its device is down, or IPv6 is off there",
			Effect: "the VIP does not work: nothing can be bound to it, and no route has it as source",
		},
		{
			Name: "loopback", Severity: Bad, Remedy: Fixes, look: lookLoopback,
			Title:  "the loopback interface lo is down",
			Effect: "what the host sends to an address of its own is lost, also to a VIP: its programs and checks do not reach the services there, so that VIPs with checks are not announced",
		},
		{
			Name: "vip-elsewhere", Severity: Warning, Remedy: FixesName, look: lookElsewhere,
			Title:  "a VIP is on another device too",
			Effect: "it stays when the daemon unbinds it, and hosts on that device's network do not follow it to another interface",
		},
		{
			Name: "vip-in-subnet", Severity: Warning, Remedy: ByHand, look: lookInSubnet, heavy: true,
			Title:  "a VIP is within the network of an interface",
			Effect: "hosts on that network look for it by ARP and do not use the announced route",
		},
		{
			Name: "unbound-loop", Severity: Bad, Remedy: FixesName, look: lookUnboundLoop, own: true,
			Title:  "a VIP is not bound on a host that forwards",
			Effect: "what routers still send for it is sent back to them, round and round",
		},
		{
			Name: "unbound-silent", Severity: Bad, Remedy: ByHand, look: lookUnboundSilent, own: true,
			Title:  "a VIP is not bound on a host that does not forward",
			Effect: "what routers still send for it is dropped without a word, so clients hang",
		},
		{
			Name: "no-device", Severity: Bad, Remedy: ByHand, look: lookDevice, own: true,
			Title:  "the kernel cannot make the virtual interface",
			Effect: "no VIP can be bound",
		},
		{
			Name: "default-metric", Severity: Warning, Remedy: ByHand, look: lookDefaultMetric, heavy: true,
			Title:  "a default route of metric 0, where routes are installed in the main table",
			Effect: "no default route of the daemon in the main table is ever used",
		},
	}
}

func managerConditions() []Condition {
	return []Condition{
		{
			Name: "networkd-match", Severity: Bad, Remedy: Fixes, look: lookNetworkdMatch,
			Title:  "systemd-networkd takes the virtual interface for its own",
			Effect: "it removes the VIPs from it whenever it configures it",
		},
		{
			Name: "networkd-foreign", Severity: Warning, Remedy: Fixes, look: lookNetworkdForeign,
			Title:  "systemd-networkd removes routes and rules of others",
			Effect: "when it starts, or configures a listed interface anew, it removes those of the daemon; they come back within a second, and until then traffic does not leave as it should",
		},
		{
			Name: "networkmanager", Severity: Note, Remedy: Fixes, look: lookNetworkManager,
			Title:  "NetworkManager is not told to leave the virtual interface alone",
			Effect: "it may take addresses from it when somebody activates a connection on it",
		},
		{
			Name: "protocol", Severity: Bad, Remedy: ByHand, look: lookProtocol,
			Title:  "our routes have a protocol number that FRR takes for its own",
			Effect: "FRR adopts them when it starts and removes them when it stops",
		},
	}
}

func firewallConditions() []Condition {
	return []Condition{
		{
			Name: "masquerade", Severity: Bad, Remedy: FixesName, look: lookMasquerade, heavy: true,
			Title:  "a NAT rule gives packets from a VIP another source",
			Effect: "peers see the address of an interface, so connections die with that interface",
		},
		{
			Name: "firewall-bgp", Severity: Bad, Remedy: FixesName, look: lookFirewallBGP, heavy: true,
			Title:  "the firewall drops BGP",
			Effect: "the session does not come up, or only when the other end connects",
		},
		{
			Name: "firewall-bfd", Severity: Bad, Remedy: FixesName, look: lookFirewallBFD, heavy: true,
			Title:  "the firewall drops BFD",
			Effect: "the BFD session does not come up, and failures of the path are seen late",
		},
		{
			Name: "firewall-interface", Severity: Warning, Remedy: FixesName, look: lookOneInterface, heavy: true,
			Title:  "the firewall lets new connections to a VIP in by one interface only",
			Effect: "when that interface fails, open connections live on and new ones do not come in",
		},
		{
			Name: "firewall-rpfilter", Severity: Bad, Remedy: FixesName, look: lookFIBFilter, heavy: true,
			Title:  "the firewall has a strict reverse path filter",
			Effect: "packets for a VIP that come by an interface by which no route leads back are dropped",
		},
	}
}

func bgpConditions() []Condition {
	return []Condition{
		{
			Name: "unfit", Severity: Warning, Remedy: ByHand, look: lookUnfit, own: true,
			Title:  "an interface of the configuration is not here, or no address of it reaches a peer or a gateway",
			Effect: "the session or the probe cannot start",
		},
		{
			Name: "port-taken", Severity: Bad, Remedy: ByHand, look: lookPort, own: true,
			Title:  "another process listens on the BGP port",
			Effect: "routers that connect to this host reach that process, and the daemon cannot listen",
		},
		{
			Name: "capability", Severity: Bad, Remedy: ByHand, look: lookCapabilities, own: true,
			Title:  "a session lacks what is configured for it",
			Effect: "what needs it does not work with that router",
		},
		{
			Name: "bfd", Severity: Warning, Remedy: ByHand, look: lookBFD, own: true,
			Title:  "a session is established, and its BFD session is not up",
			Effect: "a failure of the path that leaves the link up is seen by the gateway probe or the hold time only",
		},
		{
			Name: "clock", Severity: Note, Remedy: ByHand, look: lookClock,
			Title:  "the clock is not synchronised, or was set in a step",
			Effect: "times in the log and of events cannot be compared with those of routers; sessions do not depend on it",
		},
		{
			Name: "mtu", Severity: Bad, Remedy: FixesName, look: lookMTU, heavy: true,
			Title:  "the path to a router takes smaller packets than the interface sends",
			Effect: "large BGP messages get lost, so a session ends by its hold time when much is announced, and so do large TCP segments of others; give both ends and the switch between them the same MTU",
		},
		{
			Name: "duplicate", Severity: Warning, Remedy: ByHand, look: lookDuplicate, heavy: true,
			Title:  "a neighbour on the network of an interface has a VIP too",
			Effect: "neighbours that look for the address by ARP or ND get the one or the other host; among hosts that share it on purpose that is harmless",
		},
	}
}
