"""What is handed over and checked again: card, certificate, receipt, ledger, signature, merged weights, the Hub."""
