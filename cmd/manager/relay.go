// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"k8s.io/client-go/kubernetes"
	ctrl "sigs.k8s.io/controller-runtime"

	"chatrun.dev/operator/internal/access"
	"chatrun.dev/operator/internal/members"
	"chatrun.dev/operator/internal/streamer"
)

const (
	relayFlag = "relay-bind-address"
	// relayToken is where config/manager puts the token.
	relayToken = "/var/run/secrets/chatrun.dev/relay/token" //nolint:gosec // where it is, not what
	// relaySecret is the default of --relay-ca-secret.
	relaySecret = "chatrun-relay-ca" //nolint:gosec // a name, not the key
)

// ownerSlack is what others may take to take a run over, once the Lease of its owner
// is known to have lapsed.
const ownerSlack = 30 * time.Second

// relayOptions are the flags of the relay between replicas.
type relayOptions struct {
	address   string
	advertise string
	tokenFile string
	caSecret  string
}

// bind declares the flags.
func (r *relayOptions) bind(fs *flag.FlagSet) {
	fs.StringVar(&r.address, relayFlag, off,
		"Address at which other replicas read the streams of the runs that this one has; 0 is off. It serves HTTPS with certificates of the replicas' own authority, and asks for a token of this manager's ServiceAccount for the audience "+access.RelayAudience+".")
	fs.StringVar(&r.advertise, "relay-advertise-address", "",
		"IP or IP:PORT at which other replicas reach that address: the pod's own. Without a port: that of --"+relayFlag+".")
	fs.StringVar(&r.tokenFile, "relay-token-file", relayToken, "File of the token that is sent to other replicas, which is read each time.")
	fs.StringVar(&r.caSecret, "relay-ca-secret", relaySecret,
		"[NAMESPACE/]NAME of the Secret with the replicas' authority, which the manager makes when it needs it. Without a namespace: in the pod's own. Deleting it makes another one.")
}

// complete checks the flags. stream is the address of the stream endpoint.
func (r *relayOptions) complete(stream string) error {
	if r.address == off {
		return nil
	}
	if stream == off {
		return fmt.Errorf("--%s is for replicas that serve streams: it needs --%s", relayFlag, addressFlag)
	}
	if _, err := r.advertised(); err != nil {
		return fmt.Errorf("--relay-advertise-address: %w", err)
	}
	if r.tokenFile == "" {
		return errors.New("--relay-token-file must not be empty")
	}
	if _, err := secretName(r.caSecret, ""); err != nil {
		return fmt.Errorf("--relay-ca-secret: %w", err)
	}
	return nil
}

// advertised is where other replicas reach this one; empty if the relay is off.
func (r *relayOptions) advertised() (string, error) {
	if r.address == off {
		return "", nil
	}
	if both, err := netip.ParseAddrPort(r.advertise); err == nil {
		return both.String(), nil
	}
	ip, err := netip.ParseAddr(r.advertise)
	if err != nil || ip.Zone() != "" {
		return "", fmt.Errorf("%q is neither an IP nor IP:PORT", r.advertise)
	}
	_, port, err := net.SplitHostPort(r.address)
	if err != nil {
		return "", err
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil || number == 0 {
		return "", fmt.Errorf("it needs a port, as that of --%s is %q", relayFlag, port)
	}
	return netip.AddrPortFrom(ip, uint16(number)).String(), nil
}

// wire lets streams be relayed from other replicas, and serves them to those.
func (r *relayOptions) wire(mgr ctrl.Manager, hub *streamer.Hub, streams *streamer.Handler, me replicaOptions, others members.Addresses) error {
	if r.address == off {
		return nil
	}
	client, err := kubernetes.NewForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return fmt.Errorf("making a client for the relay: %w", err)
	}
	// The Pods of replicas are where this one's is, wherever their Leases are.
	home := cmp.Or(podNamespace(), me.namespace)
	secret, err := secretName(r.caSecret, home)
	if err != nil {
		return err
	}
	streams.OwnerLimit = max(streams.OwnerLimit, 2*me.duration+ownerSlack)
	log := ctrl.Log.WithName("relay")
	self := access.NewSelf(client)
	authority := members.NewAuthority(client, secret, me.worker, log)
	authority.Owned(self.Owners)
	streams.Peers = members.NewPeers(members.PeersOptions{
		Client: client, Namespace: home, Self: self.Name,
		Authority: authority, Addresses: others, TokenFile: r.tokenFile, Log: log,
	})
	return mgr.Add(&streamServer{
		name: "relay endpoint", address: r.address, secure: true, config: authority.TLSConfig(), closing: hub.Close, log: log,
		handler:       access.Log(log, bound(streamBodyTime, streams.Relay(access.NewRelayGuard(client, self, log)))),
		headerTimeout: streamHeaderTimeout, grace: streamGrace, reload: streamReload,
	})
}
