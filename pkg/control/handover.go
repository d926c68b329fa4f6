package control

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"

	"golang.org/x/sys/unix"
)

// Successor is the process that is to replace the daemon. It is told in parameters
// of the request, and those that a daemon of another version does not know do no
// harm.
type Successor struct {
	// Network is its network namespace, as NetworkNamespace gives it: a socket may
	// be reached from elsewhere.
	Network string
	// Version is for the log.
	Version string
}

// Handover is the answer to POST /v1/handover: the daemon ends now.
type Handover struct {
	// Mode is how, a value of shutdown.mode: restart leaves all to the next
	// process, drain withdraws and unbinds first.
	Mode string `json:"mode"`
	// Within bounds the end, such as 13s.
	Within string `json:"within"`
}

// NetworkNamespace is the name that the kernel has for the network namespace of
// the calling thread, such as net:[4026531840] (namespaces(7)). All mount and PID
// namespaces see the same one.
func NetworkNamespace() (string, error) { return os.Readlink("/proc/thread-self/ns/net") }

// handover adds the order to end for another process. It ends this one, so it is
// for whom the kernel lets do that by a signal (kill(2)): a member of the socket's
// group is not enough.
func handover(mux *http.ServeMux, o Options) {
	mux.HandleFunc("POST /v1/handover", func(w http.ResponseWriter, r *http.Request) {
		if uid, known := callerOf(r.Context()); !known || uid != 0 && uid != os.Geteuid() {
			reply(w, http.StatusForbidden, failure{fmt.Sprintf("only root and the daemon's own user (%d) may end it", os.Geteuid())})
			return
		}
		q := r.URL.Query()
		h, err := o.Handover(r.Context(), Successor{Network: q.Get("network"), Version: q.Get("version")})
		answer(w, o.Log, r, h, err)
	})
}

// caller is the key of the user who sent a request, in its context.
type caller struct{}

// withCaller is a ConnContext of http.Server.
func withCaller(ctx context.Context, c net.Conn) context.Context {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return ctx
	}
	var peer *unix.Ucred
	if raw.Control(func(fd uintptr) { peer, _ = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }) != nil || peer == nil {
		return ctx
	}
	return context.WithValue(ctx, caller{}, int(peer.Uid))
}

// callerOf is the user who sent a request, if that is known.
func callerOf(ctx context.Context) (uid int, known bool) {
	uid, known = ctx.Value(caller{}).(int)
	return uid, known
}

// HandOver orders the daemon to end for another process. When it returns without
// an error, the daemon is about to.
func (c *Client) HandOver(ctx context.Context, s Successor) (*Handover, error) {
	var h Handover
	q := url.Values{"network": {s.Network}, "version": {s.Version}}
	if err := c.call(ctx, http.MethodPost, "/v1/handover?"+q.Encode(), &h); err != nil {
		return nil, err
	}
	return &h, nil
}
