// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package members

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
)

// podSkew is how much later than the API server this machine may see a Pod's
// grace end.
const podSkew = 30 * time.Second

// find returns where a replica is, if the API server knows that place as the
// replica's own.
func (p *Peers) find(ctx context.Context, worker string) (netip.AddrPort, error) {
	address, ok := p.o.Addresses.Address(worker)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("replica %s does not say where it is", worker)
	}
	// An address and no name: nobody is asked what it means.
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("replica %s says that it is at %q, which is no IP address with a port", worker, address)
	}
	key := worker + " " + target.String()
	if known, ok := p.known.Get(key); ok {
		failed, _ := known.(error) // nil, and nothing else, of one that is good
		return target, failed
	}
	result := p.asking.DoChan(key, func() (any, error) {
		// One who leaves must not take the answer from the others.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
		defer cancel()
		err := p.check(ctx, worker, target.Addr())
		if err == nil {
			p.known.Add(key, nil, goodFor)
		} else {
			p.known.Add(key, err, badFor)
		}
		return nil, err
	})
	select {
	case r := <-result:
		return target, r.Err
	case <-ctx.Done():
		return target, ctx.Err()
	}
}

// check asks the API server whether an address is that of the Pod which is the
// replica of this name: whoever may write Leases must not get a token of ours.
func (p *Peers) check(ctx context.Context, worker string, address netip.Addr) error {
	self, err := p.o.Self(ctx)
	if err != nil {
		return err
	}
	namespace, account, err := serviceaccount.SplitUsername(self)
	if err != nil || namespace != p.o.Namespace {
		return fmt.Errorf("the relay needs a ServiceAccount in %s, and this manager is %q", p.o.Namespace, self)
	}
	pod, err := p.o.Client.CoreV1().Pods(p.o.Namespace).Get(ctx, worker, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("looking for the Pod of replica %s: %w", worker, err)
	}
	return judgePod(pod, account, address, time.Now())
}

// judgePod says why a Pod is not a live replica at this address; nil if it is.
// One that is draining still serves.
func judgePod(pod *corev1.Pod, account string, address netip.Addr, now time.Time) error {
	has := func(ip corev1.PodIP) bool {
		one, err := netip.ParseAddr(ip.IP)
		return err == nil && one.Unmap() == address.Unmap()
	}
	switch {
	case pod.Spec.ServiceAccountName != account:
		return fmt.Errorf("the Pod %s runs under another ServiceAccount: %q", pod.Name, pod.Spec.ServiceAccountName)
	case pod.Status.Phase != corev1.PodRunning:
		return fmt.Errorf("the Pod %s is not running", pod.Name)
	case pod.DeletionTimestamp != nil && now.After(pod.DeletionTimestamp.Add(podSkew)):
		// The time is that of the end of its grace.
		return fmt.Errorf("the Pod %s should be gone", pod.Name)
	case strings.Contains(address.String(), "%") || !slices.ContainsFunc(pod.Status.PodIPs, has):
		return fmt.Errorf("the Pod %s does not have the address %s", pod.Name, address)
	}
	return nil
}
