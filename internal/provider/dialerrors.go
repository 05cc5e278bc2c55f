// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"syscall"

	"chatrun.dev/operator/internal/chatretry"
)

// unreachable makes the failure of a call that got no answer. All but a
// refusal of our own is worth another attempt: the endpoint is read anew for
// each, so even a wrong address or certificate heals when somebody mends it.
func (c *call) unreachable(err error) *chatretry.Failure {
	switch {
	case errors.Is(err, ErrTargetRefused):
		return c.failCause(chatretry.InvalidRequest, "the operator never calls the address of %s",
			"it is link-local, a metadata service, or denied by a flag; change baseURL", err)
	case errors.Is(err, errBadBundle):
		return c.failCause(chatretry.InvalidRequest, "the caBundle of %s holds no PEM certificate", "mend it", err)
	case errors.Is(err, errHeaderTimeout):
		return c.failCause(chatretry.Timeout, "%s sent no answer in the time allowed", "another attempt may succeed", err)
	}
	what, todo := unreachableWords(err)
	return c.failCause(chatretry.ConnectionError, what, todo, err)
}

// unreachableWords tells the transport errors apart for people; their class
// is one.
func unreachableWords(err error) (what, todo string) {
	if proxy, ok := errors.AsType[*proxyError](err); ok {
		_ = proxy
		return "the egress proxy does not let through to %s", "check --egress-proxy and --no-proxy, and what the proxy allows"
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		if dns.IsNotFound {
			return "the host name of %s does not exist", "check baseURL"
		}
		return "the host name of %s cannot be resolved just now", "check the cluster's DNS"
	}
	if isCertificateError(err) {
		return "the certificate of %s is not trusted", "check baseURL, or set caBundle"
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return "%s does not speak TLS", "check the scheme of baseURL"
	}
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "%s refuses connections", "check baseURL, and that the server runs"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "%s closed the connection before it answered", "another attempt may succeed"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "no route to %s", "check baseURL and the network"
	case isTimeout(err):
		return "connecting to %s took too long", "check baseURL, the network and its policies"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return "", ""
	}
	// A connection there was: an early end, an HTTP/2 reset or GOAWAY, no HTTP.
	return "%s broke off before it answered", "another attempt may succeed; if it persists, check baseURL"
}

func isCertificateError(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	_, ok := errors.AsType[x509.HostnameError](err)
	return ok
}

func isTimeout(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}
