// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/go-logr/logr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"chatrun.dev/operator/internal/access"
	"chatrun.dev/operator/internal/metrics"
	"chatrun.dev/operator/internal/streamer"
)

const metricsFlag = "metrics-bind-address"

// metricsOptions are the flags of /metrics.
type metricsOptions struct {
	address string
	certDir string
	// local serves plain HTTP to anybody, on an address that only this machine reaches.
	local bool
}

func (m *metricsOptions) bind(fs *flag.FlagSet) {
	fs.StringVar(&m.address, metricsFlag, "127.0.0.1:8080",
		"Address of /metrics; 0 is off. On loopback it is plain HTTP for anybody on this machine; on any other it is HTTPS, for those who may get the path /metrics.")
	fs.StringVar(&m.certDir, "metrics-cert-dir", "",
		"Directory with tls.crt and tls.key for /metrics, which are read again when they change. Empty: a certificate that nobody can verify.")
}

func (m *metricsOptions) complete() error {
	if m.address == off {
		return nil
	}
	host, port, err := net.SplitHostPort(m.address)
	if err != nil {
		return fmt.Errorf("--%s: %w", metricsFlag, err)
	}
	if m.local = isLoopback(host); !m.local {
		return m.checkCertificate()
	}
	if _, err := netip.ParseAddr(host); err != nil {
		// What localhost means is not left to a name server.
		m.address = net.JoinHostPort("127.0.0.1", port)
	}
	if m.certDir != "" {
		return fmt.Errorf("--metrics-cert-dir: on loopback, as %s is, /metrics is plain HTTP and takes no certificate", m.address)
	}
	return nil
}

// checkCertificate finds a certificate missing here, where controller-runtime would
// take one of its own instead.
func (m *metricsOptions) checkCertificate() error {
	if m.certDir == "" {
		return nil
	}
	for _, file := range []string{"tls.crt", "tls.key"} {
		if _, err := os.Stat(filepath.Join(m.certDir, file)); err != nil {
			return fmt.Errorf("--metrics-cert-dir: %w", err)
		}
	}
	return nil
}

// server says how metrics are served.
func (m *metricsOptions) server() (metricsserver.Options, error) {
	o := metricsserver.Options{BindAddress: m.address}
	if m.address == off || m.local {
		return o, nil
	}
	o.SecureServing, o.CertDir = true, m.certDir
	o.TLSOpts = []func(*tls.Config){func(c *tls.Config) { c.MinVersion = tls.VersionTLS12 }}
	if m.certDir == "" {
		own, err := selfSigned()
		if err != nil {
			return o, fmt.Errorf("making a certificate for /metrics: %w", err)
		}
		o.TLSOpts = append(o.TLSOpts, func(c *tls.Config) {
			c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &own, nil }
		})
	}
	o.FilterProvider = func(cfg *rest.Config, c *http.Client) (metricsserver.Filter, error) {
		client, err := kubernetes.NewForConfigAndClient(cfg, c)
		if err != nil {
			return nil, fmt.Errorf("making a client for reviews: %w", err)
		}
		return func(log logr.Logger, next http.Handler) (http.Handler, error) {
			return access.Metrics(client, log, next), nil
		}, nil
	}
	return o, nil
}

// showReaders lets metrics show what the stream endpoint does.
func showReaders(m *metrics.Metrics, streams *streamer.Handler) error {
	return m.ShowReaders(func() metrics.Readers {
		c := streams.Counts()
		return metrics.Readers{
			Served: c.Readers, RefusedReaders: c.RefusedReaders,
			Fetched: c.Fetched, Forwarded: c.Forwarded, RefusedRelays: c.RefusedRelays, Frames: c.Frames,
		}
	})
}
