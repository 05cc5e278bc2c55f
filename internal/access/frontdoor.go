// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	x509request "k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes"
)

// The ConfigMap in which each API server says by which certificate it can be
// known, and in which headers it names the user. The RoleBinding
// extension-apiserver-authentication-reader allows reading it.
const (
	frontNamespace = "kube-system"
	frontConfigMap = "extension-apiserver-authentication"
)

// FrontDoor knows the API server when it passes a user's request on, and users
// by the certificates that the API server would take from them. It is a
// Runnable of the manager. Until it has read the ConfigMap it knows nobody; who
// sends a token of their own is served in any case.
type FrontDoor struct {
	users, proxies *dynamiccertificates.ConfigMapCAController
	headers        *headerrequest.RequestHeaderAuthRequestController
}

// NewFrontDoor makes one.
func NewFrontDoor(client kubernetes.Interface) (*FrontDoor, error) {
	users, err := dynamiccertificates.NewDynamicCAFromConfigMapController("client-ca", frontNamespace, frontConfigMap, "client-ca-file", client)
	if err != nil {
		return nil, fmt.Errorf("setting up the front door: %w", err)
	}
	proxies, err := dynamiccertificates.NewDynamicCAFromConfigMapController("request-header", frontNamespace, frontConfigMap,
		"requestheader-client-ca-file", client)
	if err != nil {
		return nil, fmt.Errorf("setting up the front door: %w", err)
	}
	return &FrontDoor{users: users, proxies: proxies, headers: headerrequest.NewRequestHeaderAuthRequestController(
		frontConfigMap, frontNamespace, client,
		"requestheader-username-headers", "requestheader-uid-headers", "requestheader-group-headers",
		"requestheader-extra-headers-prefix", "requestheader-allowed-names",
	)}, nil
}

// ways are the ways to be known here, the API server first: its own certificate
// must not be taken for a user's.
func (f *FrontDoor) ways() []authenticator.Request {
	value := func(of func() []string) headerrequest.StringSliceProvider {
		return headerrequest.StringSliceProviderFunc(of)
	}
	// An empty list would allow every name, and it is empty until it was read.
	names := func() []string {
		if len(f.headers.UsernameHeaders()) == 0 {
			return []string{"nobody: the ConfigMap was not read yet"}
		}
		return f.headers.AllowedClientNames()
	}
	return []authenticator.Request{
		headerrequest.NewDynamicVerifyOptionsSecure(f.proxies.VerifyOptions, value(names),
			value(f.headers.UsernameHeaders), value(f.headers.UIDHeaders), value(f.headers.GroupHeaders), value(f.headers.ExtraHeaderPrefixes)),
		x509request.NewDynamic(f.users.VerifyOptions, x509request.CommonNameUserConversion),
	}
}

// Start implements manager.Runnable: it follows the ConfigMap until ctx ends.
func (f *FrontDoor) Start(ctx context.Context) error {
	var running sync.WaitGroup
	running.Go(func() { f.users.Run(ctx, 1) })
	running.Go(func() { f.proxies.Run(ctx, 1) })
	running.Go(func() { f.headers.Run(ctx, 1) })
	running.Wait()
	return nil
}

// NeedLeaderElection implements manager.LeaderElectionRunnable.
func (*FrontDoor) NeedLeaderElection() bool { return false }

// Ready returns an error as long as the API server is not known here.
func (f *FrontDoor) Ready() error {
	if _, known := f.proxies.VerifyOptions(); !known || len(f.headers.UsernameHeaders()) == 0 {
		return fmt.Errorf("the front door is shut: the ConfigMap %s/%s was not read, or does not say how the API server can be known",
			frontNamespace, frontConfigMap)
	}
	return nil
}

// TLS makes a server ask for certificates. All else of the config is to stand
// there already. It takes any certificate, since a Gate verifies
// them by request; which authorities it names follows the ConfigMap, so that
// browsers do not offer the certificates of others.
func (f *FrontDoor) TLS(config *tls.Config) {
	config.ClientAuth = tls.RequestClientCert
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		asking := config.Clone()
		asking.GetConfigForClient = nil
		asking.ClientCAs = x509.NewCertPool()
		asking.ClientCAs.AppendCertsFromPEM(f.users.CurrentCABundleContent())
		asking.ClientCAs.AppendCertsFromPEM(f.proxies.CurrentCABundleContent())
		return asking, nil
	}
}
