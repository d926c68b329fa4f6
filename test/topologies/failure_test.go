package topologies

import "vipspeaker/test/topologies/lab"

// failure is something that happens to an interface of the host.
type failure struct {
	name       string
	fail, heal func(l *lab.Lab, ifc string)
}

func failures() []failure {
	return []failure{
		{
			"link down",
			func(l *lab.Lab, ifc string) { l.Node("host").LinkDown(ifc) },
			func(l *lab.Lab, ifc string) { l.Node("host").LinkUp(ifc) },
		},
		{
			"carrier lost",
			func(l *lab.Lab, ifc string) { l.Unplug("host", ifc) },
			func(l *lab.Lab, ifc string) { l.Plug("host", ifc) },
		},
	}
}
